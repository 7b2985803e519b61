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

log = logging.getLogger(__name__)


class CompiledStep:
    """A function that is compiled for the sizes it is called with first. Calls of other sizes run as it is written.

    So nothing is compiled again behind anybody's back. How long the first call took is told.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name
        self.compiled = torch.compile(function, dynamic=False, fullgraph=True)
        self.sizes: tuple[Any, ...] | None = None

    def __call__(self, *args: Any) -> Any:
        """Call it, compiled where it can be."""
        sizes = _sizes(args)
        if self.sizes is None:
            self.sizes, began = sizes, time.perf_counter()
            result = self.compiled(*args)
            log.info("compiled %s in %.0f s", self.name, time.perf_counter() - began)
            return result
        return (self.compiled if sizes == self.sizes else self.function)(*args)


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
