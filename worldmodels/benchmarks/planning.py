"""`scripts/benchmark.py suite=planning`: what a decision costs, for one environment and for several at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dynamics.base import Memory
from worldmodels.benchmarks.training import machine, milliseconds
from worldmodels.common import precision
from worldmodels.common.files import write_json
from worldmodels.config import load_config
from worldmodels.factory import build_model, build_planner
from worldmodels.training.malloc import keep_freed_memory
from worldmodels.training.parts import work_out_discounts

log = logging.getLogger(__name__)

OBSERVED, ACTIONS, DECISIONS = 24, 6, 500
"""Numbers in an observation and in an action, walker's, and decisions of an episode."""
TDMPC2 = ("experiment=tdmpc2",)
PLANNERS = (
    "tdmpc",
    "mppi",
    "cem",
    "gradient",
    "diffusion",
    "mppi_actor_critic",
    "cem_actor_critic",
    "actor_critic",
    "random",
)
SEARCH = {"plan_horizon": 3, "num_samples": 512, "num_elites": 64, "iterations": 6, "replan_every": 1}
"""TD-MPC2's, for every planner that has these options."""


def measure(
    overrides: list[str],
    repeats: int = 20,
    only: Sequence[str] = PLANNERS,
    envs: Sequence[int] = (1, 16),
    to: str = "benchmark_planning.json",
) -> dict[str, Any]:
    """Time every planner on TD-MPC2's model with its search, print the table, write the JSON."""
    keep_freed_memory()
    rows = [time_planner(name, overrides, repeats, envs) for name in tqdm(only, unit="planner")]
    cfg = load_config([*TDMPC2, *overrides])
    device = precision.device_of(cfg.trainer.accelerator)
    result = {"overrides": overrides, "machine": machine(device), "repeats": repeats, "planners": rows}
    write_json(Path(to), result)
    log.info("%s", table(rows, envs))
    return result


def time_planner(name: str, overrides: list[str], repeats: int, envs: Sequence[int]) -> dict[str, Any]:
    """Milliseconds of a decision for each number of environments."""
    cfg = load_config([*words(name), *overrides])
    work_out_discounts(cfg.planner, DECISIONS)
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    device = precision.prepared_device(cfg.trainer)
    amp = precision.acting_context(cfg.trainer, device)
    model = build_model(cfg, {"state": ((OBSERVED,), torch.float32)}, ACTIONS).to(device).eval()
    planner = build_planner(cfg.planner, ACTIONS, False, model.dynamics.feature_spec).to(device).eval()
    row = {"planner": name, "parameters": sum(p.numel() for p in (*model.parameters(), *planner.parameters()))}
    generator = torch.Generator(device)

    def decide(n: int, memory: Memory, times: int = 1) -> Memory:
        """In mid-episode: ``memory`` holds the rest of a plan, which some sample from."""
        reset = torch.zeros(n, dtype=torch.bool)  # on the host, as in acting
        with torch.no_grad(), amp():
            for _ in range(times):
                _, after = planner.act(model, model.initial(n), memory, reset, True, generator)
        return after

    warm = {n: decide(n, planner.initial(n)) for n in {1, *envs}}
    for n in envs:
        row[f"{n}"] = milliseconds(lambda n=n: decide(n, warm[n]), repeats, device)
    row["one after another"] = milliseconds(lambda: decide(1, warm[1], envs[-1]), repeats, device)
    return row


def words(name: str) -> list[str]:
    """TD-MPC2's model under a planner, with TD-MPC2's search where it has one."""
    chosen = [*TDMPC2, f"planner={name}"]
    planner = load_config(chosen).planner
    if "acting" in planner:  # denoised plans are long by nature: theirs stay as configured
        return [*chosen, "planner.acting.replan_every=1"]
    prefix, known = ("planner.search.", planner.search) if "search" in planner else ("planner.", planner)
    keys = [key for key in SEARCH if key in known and (name != "gradient" or key != "iterations")]
    return chosen + [f"{prefix}{key}={SEARCH[key]}" for key in keys]


def table(rows: Sequence[dict[str, Any]], envs: Sequence[int]) -> str:
    """Write medians and percentiles.

    Last stands what the most environments at once cost over as many plans one by one.
    """
    lines = [
        f"{'planner':<20}{'M par.':>8}" + "".join(f"{f'{n} env, ms':>14}{'p10-p90':>16}" for n in envs) + "  at once"
    ]
    for row in rows:
        cells = "".join(
            f"{row[f'{n}']['median']:>14.2f}{row[f'{n}']['p10']:>8.1f}-{row[f'{n}']['p90']:<7.1f}" for n in envs
        )
        share = row[f"{envs[-1]}"]["median"] / row["one after another"]["median"]
        lines.append(f"{row['planner']:<20}{row['parameters'] / 1e6:>8.2f}{cells}{share:>8.2f}")
    return "\n".join(lines)
