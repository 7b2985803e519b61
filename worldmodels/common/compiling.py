"""Compiling a step that is computed over and over, and saying so."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from worldmodels.errors import UserError

log = logging.getLogger(__name__)


class CompiledStep:
    """A function that is compiled for the sizes it is called with first. Calls of other sizes run as it is written.

    So nothing is compiled again behind anybody's back: where it is all the same, that is told as a warning, with the
    seconds it took, as the first time is told.

    Args:
        graphs: replay CUDA graphs, where nothing that a call returns is kept until the next one.
    """

    def __init__(self, function: Callable[..., Any], name: str, graphs: bool = False) -> None:
        self.function, self.name = function, name
        mode = "reduce-overhead" if graphs else None
        self.compiled = torch.compile(function, dynamic=False, fullgraph=True, mode=mode)
        self.sizes: tuple[Any, ...] | None = None
        self.times = 0

    def __call__(self, *args: Any) -> Any:
        """Call it, compiled where it can be.

        Raises:
            UserError: it cannot be compiled as one graph.
        """
        sizes = _sizes(args)
        if self.sizes is None:
            self.sizes = sizes
        elif sizes != self.sizes:
            return self.function(*args)
        known, began = compiled_graphs(), time.perf_counter()
        try:
            result = self.compiled(*args)
        except torch._dynamo.exc.Unsupported as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"trainer.compile: {self.name} cannot be one graph: {reason}; use off.") from error
        if compiled_graphs() > known:
            self._tell(time.perf_counter() - began)
        return result

    def _tell(self, seconds: float) -> None:
        self.times += 1
        if self.times == 1:
            log.info("compiled %s in %.0f s", self.name, seconds)
        else:
            log.warning("compiled %s again in %.0f s, the %d. time", self.name, seconds, self.times)


def compiled_graphs() -> int:
    """Return how many graphs the compiler has made in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def _sizes(args: Any) -> tuple[Any, ...]:
    """All that a compiled function depends on beside the numbers."""
    tensors = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
    kind = tensors[0].device.type
    narrow = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return (torch.is_grad_enabled(), narrow, *((x.shape, x.dtype, x.device, x.requires_grad) for x in tensors))


def compiler_missing(device: torch.device) -> str | None:
    """Return what the compiler lacks on this machine for a device, or nothing."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "a C++ compiler, as g++"
    return None
