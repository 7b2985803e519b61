"""`scripts/benchmark.py suite=launches`: what an update, a plan and a frame ask of a device, counted instead of timed.

An operator is a launch on a GPU, about 5 microseconds of its host, and a wait is where the host stands still until the
device has caught up. Both can be counted on any machine.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from worldmodels.common import precision
from worldmodels.common.batch import split_context
from worldmodels.common.columns import MEMORY_PREFIX, PLACE
from worldmodels.common.files import write_json
from worldmodels.config import load_config
from worldmodels.data.collect import row_spec
from worldmodels.errors import UserError, near_match
from worldmodels.factory import build_model, context_mode
from worldmodels.nets.encoders import ObservationSpec
from worldmodels.training.module import WorldModelModule
from worldmodels.training.parts import work_out_discounts
from worldmodels.training.setup import Spaces, build_module, compile_parts

log = logging.getLogger(__name__)

ACTIONS, STATE, DECISIONS = 6, 24, 500
"""Numbers of an action and of a state, walker's, and decisions of an episode."""
NARROW = ("size.deter=64", "size.hidden=16", "size.depth=8", "size.units=16")
"""Widths, which change no count."""
SUBJECTS = {
    "default": (),
    "dreamerv3": ("experiment=dreamerv3", *NARROW),
    "dreamerv3_state": ("experiment=dreamerv3_state", *NARROW),
    "tdmpc2": ("experiment=tdmpc2", "data.batch_size=8"),
    "tdmpc2_pixels": ("experiment=tdmpc2_pixels", "data.batch_size=2"),
    **{
        f"dynamics={name}": (f"dynamics={name}",)
        for name in ("transformer", "ssm", "s4d", "mamba", "koopman", "implicit")
    },
    "dynamics=rssm obs": ("dynamics=rssm", "dynamics.posterior=obs"),
    **{
        f"planner={name}": (f"planner={name}",)
        for name in ("cem", "gradient", "actor_critic", "tdmpc", "mppi_actor_critic", "cem_actor_critic", "diffusion")
    },
    "planner=diffuser": ("planner=diffuser", "data.length=33"),
}
"""What is counted by itself, and the words that make it."""
NO_LAUNCH = ("aten.empty", "aten.new_empty", "aten._local_scalar_dense", "profiler.")
"""Operators by which a device computes nothing: they reserve memory, or are waits."""
READS = (Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__bool__, Tensor.__int__, Tensor.__float__)
"""Calls by which the host reads what the device holds."""
WAITS = ("aten.nonzero", "aten.masked_select", "aten.equal", "aten._unique2", "aten.bincount")
"""Operators whose outcome the host must know before it goes on."""
BY_MASK = ("aten.index.Tensor", "aten.index_put", "aten.index_put_")
"""Operators that wait where an index is a mask."""


@dataclass
class Count:
    """What was asked of a device."""

    operators: Counter[str] = field(default_factory=Counter)
    """By name, views and reservations of memory left out."""
    waits: Counter[str] = field(default_factory=Counter)
    """By what the host waited for."""
    moved: int = 0
    """Bytes that operators read and wrote."""

    def summary(self) -> dict[str, Any]:
        """Return totals, and which operators are most of them."""
        return {
            "operators": self.operators.total(),
            "waits": self.waits.total(),
            "moved_mb": round(self.moved / 1e6, 1),
            "most": dict(self.operators.most_common(5)),
            "waited_for": dict(self.waits),
        }


class _Operators(TorchDispatchMode):
    def __init__(self, count: Count) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **(kwargs or {})), str(func)
        if name.startswith(WAITS) or (name.startswith(BY_MASK) and _masked(args[1])):
            self.count.waits[name] += 1
        if not func.is_view and not name.startswith(NO_LAUNCH):
            self.count.operators[name] += 1
            tensors = (leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor))
            self.count.moved += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


class _Reads(TorchFunctionMode):
    def __init__(self, count: Count) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            self.count.waits[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def _masked(indices: Sequence[Tensor | None]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


@contextmanager
def counting() -> Iterator[Count]:
    """Count what is asked of the device within the block."""
    count = Count()
    with _Reads(count), _Operators(count):
        yield count


class _Unlogged(WorldModelModule):
    """An update between two that are logged, as most are."""

    logs = False


@dataclass(frozen=True)
class Made:
    """Whatever an update, a plan and a frame are made of, without an environment."""

    cfg: DictConfig
    module: WorldModelModule
    batch: dict[str, Tensor]
    device: torch.device


def make(words: Sequence[str], device: torch.device | None = None) -> Made:
    """Build a configuration's module, and a batch of made-up rows, on a device: the configuration's where none is."""
    cfg = load_config(list(words))
    prepared = precision.prepared_device(cfg.trainer)
    device = device or prepared
    work_out_discounts(cfg.planner, DECISIONS)
    spaces = Spaces(observations_of(cfg), ACTIONS, False)
    model = build_model(cfg, spaces.observation_spec, ACTIONS)
    module = build_module(cfg, Path(), model, spaces)
    module.__class__ = _Unlogged
    stored = model if context_mode(cfg, model.dynamics) == "latent" else None
    batch = made_up(row_spec(spaces, stored), cfg.data.batch_size, cfg.data.length + module.prefix)
    return Made(cfg, module.to(device), {key: value.to(device) for key, value in batch.items()}, device)


def parts_of(made: Made) -> dict[str, Callable[[], Any]]:
    """Return an update, a plan and the filtering of a frame, each a function without arguments."""
    cfg, module, batch, device = made.cfg, made.module, made.batch, made.device
    model, planner, optimizer = module.model, module.planner, module.configure_optimizers()
    amp = precision.context(cfg.trainer.precision, device)
    compile_parts(cfg.trainer.compile, module, device)
    window = split_context(batch, module.prefix)[1]
    envs = cfg.env.num_envs
    rows = {key: value[:1, 0].expand(envs, *value.shape[2:]) for key, value in window.items()}
    state, memory = model.initial(envs), planner.initial(envs)
    reset, generator = torch.zeros(envs, dtype=torch.bool), torch.Generator(device)
    reset_there = reset.to(device)

    def update() -> None:
        module.train()
        with amp():
            total = module.training_step(batch, 0)["loss"]
        total.backward()
        module.configure_gradient_clipping(optimizer)
        optimizer.step()
        optimizer.zero_grad()
        module.finish_step(optimizer, amp)

    def acting(do: Callable[[], Any]) -> Callable[[], Any]:
        def eval_mode() -> Any:
            module.eval()
            with torch.no_grad(), amp():
                return do()

        return eval_mode

    return {
        "update": update,
        "plan": acting(lambda: planner.act(model, state, memory, reset, True, generator)),
        "frame": acting(lambda: model.obs_step(rows, rows["action"], reset_there, state, generator)),
    }


def observations_of(cfg: Any) -> ObservationSpec:
    """Return the observations of a task of dm_control of this configuration."""
    if cfg.env.obs == "state":
        return {"state": ((STATE,), torch.float32)}
    side = cfg.env["size"]
    return {"pixels": ((3 * cfg.env.stack, side, side), torch.uint8)}


def made_up(spec: Any, size: int, length: int) -> dict[str, Tensor]:
    """Return a batch of rows that hold small numbers, and begin no episode but at their first."""
    rows = {}
    for key, (shape, dtype) in spec.items():
        rows[key] = (
            torch.rand(size, length, *shape).to(dtype)
            if dtype.is_floating_point
            else torch.zeros(size, length, *shape, dtype=dtype)
        )
    rows["reset"] = rows["is_first"]
    if any(key.startswith(MEMORY_PREFIX) for key in rows):
        rows[PLACE] = torch.arange(size * length).view(size, length)
    return rows


def count_all(words: Sequence[str]) -> dict[str, Any]:
    """Return the counts of every part of a configuration, after a first call that sets things up."""
    found = {}
    for name, part in parts_of(make(words)).items():
        part()
        with counting() as count:
            part()
        found[name] = count.summary()
    return found


def measure(
    overrides: list[str], only: Sequence[str] = tuple(SUBJECTS), to: str = "benchmark_launches.json"
) -> dict[str, Any]:
    """Count every subject, print the table, write the JSON."""
    for name in only:
        if name not in SUBJECTS:
            raise UserError(f"only={name} is not one of {', '.join(SUBJECTS)}.{near_match(name, SUBJECTS)}")
    rows = [{"subject": name, **count_all([*SUBJECTS[name], *overrides])} for name in tqdm(only, unit="subject")]
    result = {"overrides": overrides, "torch": torch.__version__, "subjects": rows}
    write_json(Path(to), result)
    log.info("%s", table(rows))
    return result


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Operators, and how often the host waits, of each part."""
    lines = [f"{'':<28}{'update':>9}{'waits':>7}{'MB':>9}{'plan':>9}{'waits':>7}{'frame':>9}{'waits':>7}"]
    for row in rows:
        update, plan, frame = row["update"], row["plan"], row["frame"]
        lines.append(
            f"{row['subject']:<28}{update['operators']:>9,}{update['waits']:>7}{update['moved_mb']:>9,.0f}"
            f"{plan['operators']:>9,}{plan['waits']:>7}{frame['operators']:>9,}{frame['waits']:>7}"
        )
    return "\n".join(lines)
