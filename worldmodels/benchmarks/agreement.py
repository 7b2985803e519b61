"""Whether one update comes to the same on every device and by every way of running it, and what it waits for."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldmodels.benchmarks.launches import Made, counting, make
from worldmodels.common import precision
from worldmodels.common.files import finite
from worldmodels.errors import UserError

Outcome = dict[str, Tensor]
"""Losses, gradients and imagined rewards of one update by name, on the CPU in fp64."""
TINY = ("size=xxs", "data.length=5", "data.batch_size=4", "env.num_envs=2", "env.size=16", "data.context=none")
IMAGINED = 3
"""Steps imagined from every state of a batch, with actions given."""
TOLERANCE = 2e-3
"""Largest difference of fp32, over the norm of what is compared. Other orders of adding reach 1e-4."""
ROUGH = 0.05
"""The same of a loss in bf16."""
GRAPHS, REPLAYED = "cuda_graphs", 3
"""Inductor with CUDA graphs, and the update that is the first to replay one."""
SYNC = "called a synchronizing CUDA operation"
"""How PyTorch says that the host waited."""


def outcome(
    words: Sequence[str], device: torch.device, how: str = "fp32", backend: str | None = None, repeats: int = 1
) -> Outcome:
    """Run one update without any chance in it but what is drawn from seeds.

    Args:
        how: fp32 (without TF32) or bf16.
        backend: a compiler that the losses are compiled with; :data:`GRAPHS` is inductor, replayed as a CUDA graph.
        repeats: of the update, without a step; the last counts. The third is the first that replays a graph.
    """
    torch.manual_seed(0)
    made = shaken(make([*TINY, *words], device))
    module, rows = made.module.train(), made.batch
    module.model.dynamics.sample = False
    torch.compiler.reset()
    step = torch.compile(module.losses, **how_to_compile(backend)) if backend else module.losses
    with ieee(), precision.context(how, device)():
        for _ in range(repeats):
            torch.manual_seed(1)
            module.zero_grad()
            torch.compiler.cudagraph_mark_step_begin()
            losses, rollout = step(rows)
            means = {name: loss.float().mean() for name, loss in losses.items()}
            module.balance(means, module.planner.follow_up_losses)[0].backward()
        starts = module.model.dynamics.starts(rollout.detach())
        plan = torch.full((len(starts.feat), IMAGINED, rows["action"].shape[-1]), 0.5, device=device)
        with torch.no_grad():
            reward = module.model.imagine(starts, plan, IMAGINED).reward
    gradients = {f"gradient of {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    named = {f"loss {name}": mean for name, mean in means.items()} | gradients | {"imagined reward": reward}
    return {name: value.detach().cpu().double() for name, value in named.items()}


def how_to_compile(backend: str) -> dict[str, str]:
    """Return what ``torch.compile`` calls it."""
    return {"mode": "reduce-overhead"} if backend == GRAPHS else {"backend": backend}


def graphs() -> dict[str, int]:
    """Return how many graphs were compiled since the compiler was reset, and how often one ended early."""
    counters = torch._dynamo.utils.counters
    return {"graphs": counters["stats"]["unique_graphs"], "graph_breaks": sum(counters["graph_break"].values())}


def shaken(made: Made) -> Made:
    """Give every weight and pixel a value of its own: much is zero before training, and zeros agree everywhere."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in made.module.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator).to(weight.device)
        for value in made.batch.values():
            if value.dtype == torch.uint8:
                value.copy_(torch.randint(256, value.shape, generator=generator))
        for key in ("is_first", "reset"):
            made.batch[key][:, 0] = made.batch[key][0, 3] = True
    return made


@contextmanager
def ieee() -> Iterator[None]:
    """Compute fp32 products as fp32, not as TF32, and draw random numbers in compiled code as eager code does."""
    from torch._inductor import config

    products = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before, drawn = [part.fp32_precision for part in products], config.fallback_random
    try:
        for part in products:
            part.fp32_precision = "ieee"
        config.fallback_random = True
        yield
    finally:
        config.fallback_random = drawn
        for part, value in zip(products, before, strict=True):
            part.fp32_precision = value


def difference(one: Outcome, other: Outcome) -> tuple[float, str]:
    """Return the largest difference of a value, over its norm, and its name."""
    if one.keys() != other.keys():
        return float("inf"), sorted(one.keys() ^ other.keys())[0]
    apart = {name: float((other[name] - value).norm() / (value.norm() + 1e-4)) for name, value in one.items()}
    worst = max(apart, key=lambda name: finite(apart[name]) if finite(apart[name]) is not None else float("inf"))
    return apart[worst], worst


def disagreements(found: Mapping[str, float], limits: Mapping[str, float], where: str) -> list[str]:
    """Return a sentence for each difference beyond its limit, or that is no number."""
    wrong = [name for name, value in found.items() if not value <= limits[name]]
    return [f"{where}: {name} is off by {found[name]:.2g}, more than {limits[name]:g}." for name in wrong]


def require_none(wrong: Sequence[str]) -> None:
    """Raise :class:`UserError` where something disagrees."""
    if wrong:
        raise UserError(" ".join(wrong))


def losses_of(outcome: Outcome) -> Outcome:
    """Leave the losses alone: what bf16 is held to."""
    return {name: value for name, value in outcome.items() if name.startswith("loss ")}


def waits(call: Callable[[], Any], device: torch.device) -> dict[str, int]:
    """Return what a call waits for, and how often: by place in the code on a GPU, by operator elsewhere.

    On a GPU it is first run where waiting is an error. Only what waits there is run again, where each wait is told.
    """
    if device.type != "cuda":
        with counting() as count:
            call()
        return dict(count.waits)
    try:
        with sync_debug("error"):
            call()
        return {}
    except RuntimeError as error:
        if SYNC not in str(error):
            raise
    with sync_debug("warn"), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call()
    places = [f"{Path(one.filename).name}:{one.lineno}" for one in said if SYNC in str(one.message)]
    return dict(Counter(places)) or {"unknown": 1}


@contextmanager
def sync_debug(mode: str) -> Iterator[None]:
    """Let PyTorch tell, or forbid, that the host waits for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
