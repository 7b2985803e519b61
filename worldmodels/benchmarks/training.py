"""`scripts/benchmark.py`: medians of the parts of a training."""

from __future__ import annotations

import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from dynamics.base import Rollout
from worldmodels.common import precision
from worldmodels.common.batch import split_context
from worldmodels.common.columns import MEMORY_PREFIX
from worldmodels.common.files import write_json
from worldmodels.config import load_config
from worldmodels.data.collect import row_spec
from worldmodels.data.replay import Replay
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError, near_match
from worldmodels.factory import build_model, context_mode
from worldmodels.training.malloc import keep_freed_memory
from worldmodels.training.parts import work_out_discounts
from worldmodels.training.setup import build_module, compile_parts, narrow_acting

log = logging.getLogger(__name__)

WARM_UP = 3


def finish(device: torch.device) -> None:
    """Wait for what a GPU was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    finish(device)
    return time.perf_counter() - start


def milliseconds(fn: Callable[[], Any], repeats: int, device: torch.device) -> dict[str, float]:
    """Median, and the 10th and 90th percentile, of ``repeats`` calls after a warm-up."""
    for _ in range(WARM_UP):
        timed(fn, device)
    times = sorted(1000 * timed(fn, device) for _ in range(repeats))
    return {"median": statistics.median(times), "p10": times[len(times) // 10], "p90": times[-1 - len(times) // 10]}


def benchmark(
    overrides: list[str], repeats: int = 20, to: str = "benchmark.json", only: Sequence[str] = ()
) -> dict[str, Any]:
    """Time everything, or only some parts of it. Print the table, write the JSON."""
    cfg = load_config(overrides)
    keep_freed_memory()
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    device = precision.prepared_device(cfg.trainer)
    with (
        tempfile.TemporaryDirectory(prefix="worldmodels_benchmark_") as folder,
        VectorEnv(cfg.env, cfg.env.num_envs, cfg.seed, cfg.env.step_timeout) as envs,
    ):
        work_out_discounts(cfg.planner, envs.episode_decisions)
        parts = build_parts(cfg, envs, device, Path(folder))
        times = {name: milliseconds(parts[name], repeats, device) for name in chosen_of(parts, only)}
    result = {
        "overrides": overrides,
        "machine": machine(device),
        "repeats": repeats,
        "milliseconds": times,
    }
    write_json(Path(to), result)
    lines = [f"{'':<22}{'median':>10}{'p10':>10}{'p90':>10}   milliseconds"]
    lines += [f"{k:<22}{v['median']:>10.2f}{v['p10']:>10.2f}{v['p90']:>10.2f}" for k, v in times.items()]
    log.info("%s", "\n".join(lines))
    return result


def chosen_of(known: Collection[str], only: Sequence[str]) -> Sequence[str]:
    """Return the names that ``only`` asks for, or all that are known. Raise :class:`UserError` for one that is not."""
    for name in only:
        if name not in known:
            raise UserError(f"only={name} is not one of {', '.join(known)}.{near_match(name, known)}", option="only")
    return only or list(known)


def machine(device: torch.device) -> dict[str, Any]:
    """Return the facts about a machine that figures have to be read with."""
    return {
        "processor": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def build_parts(cfg: DictConfig, envs: VectorEnv, device: torch.device, folder: Path) -> dict[str, Callable[[], Any]]:
    """The parts by name, each a function without arguments."""
    model = build_model(cfg, envs.observation_spec, envs.action_dim)
    module = build_module(cfg, folder, model, envs).to(device)
    narrow_acting(cfg.trainer, module, device)
    planner, (acting, searching) = module.planner, module.collecting
    module.average.eval()  # as a training has it: what acts leaves nothing out
    compile_parts(cfg.trainer.compile, module, device)
    amp, amp_acting = precision.context(cfg.trainer.precision, device), precision.acting_context(cfg.trainer, device)
    replay = fill_replay(cfg, envs, model, folder)
    length = cfg.data.length + module.prefix
    batch = {key: value.to(device) for key, value in replay.sample(cfg.data.batch_size, length).items()}
    rows = {key: value.to(device) for key, value in envs.reset().items()}
    reset = torch.zeros(envs.num_envs, dtype=torch.bool)  # on the host, as in acting
    state, memory = model.initial(envs.num_envs), planner.initial(envs.num_envs)
    action = torch.zeros(envs.num_envs, envs.action_dim)
    generator = torch.Generator(device)
    optimizer = module.configure_optimizers()
    later = planner.follow_up_losses

    def losses() -> tuple[Tensor, Rollout]:
        with amp():
            named, rollout = module.step_losses(batch)
        return module.balance({name: loss.float().mean() for name, loss in named.items()}, later)[0], rollout

    def update() -> None:
        total, rollout = losses()
        total.backward()
        module.clip_gradients_of(optimizer)
        optimizer.step()
        optimizer.zero_grad()
        if later:
            module.second_step(optimizer, rollout.detach(), split_context(batch, module.prefix)[1], amp)
        module.after_step()

    @torch.no_grad()
    def plan() -> None:
        with amp_acting():
            searching.act(acting, state, memory, reset, True, generator)

    @torch.no_grad()
    def filter_frame() -> None:
        with amp_acting():
            acting.obs_step(rows, rows["action"], rows["is_first"], state, generator)

    return {
        "update": update,
        "losses, forward": torch.no_grad()(losses),
        "planning step": plan,
        "filtering a frame": filter_frame,
        "environment step": lambda: envs.step(action),
        "sampling a batch": lambda: replay.sample(cfg.data.batch_size, length),
    }


def fill_replay(cfg: DictConfig, envs: VectorEnv, model: torch.nn.Module, folder: Path) -> Replay:
    """A small replay of real rows, of actions that do nothing."""
    spec = row_spec(envs, model if context_mode(cfg, model.dynamics) == "latent" else None)
    steps = 4 * (cfg.data.length + cfg.data.burn_in)
    replay = Replay(folder / "replay", spec, envs.num_envs, steps * envs.num_envs, cfg.data.limit_gib, seed=cfg.seed)
    latents = {MEMORY_PREFIX + key: value for key, value in model.initial(envs.num_envs).memory.items()}
    rows = envs.reset()
    for _ in range(steps):
        replay.extend(rows | latents)
        rows = envs.step(torch.zeros(envs.num_envs, envs.action_dim))
    return replay
