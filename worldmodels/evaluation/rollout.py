"""Scores in environments of their own, with generators of their own, beside what needs no learning."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from planners.base import Planner
from planners.guided import Guided
from worldmodels.agent import Agent
from worldmodels.common.terminal import tell_once
from worldmodels.data.model_free import ModelFreeAgent, StateAgent
from worldmodels.envs import describe
from worldmodels.envs.options import Baselines, read
from worldmodels.envs.successes import UNKNOWN
from worldmodels.envs.vector import VectorEnv, held_out_envs
from worldmodels.errors import UserError
from worldmodels.evaluation.oracle import Oracle, OracleAgent
from worldmodels.evaluation.simulators import Simulators
from worldmodels.model import WorldModel
from worldmodels.runs.loading import require_same_spaces

log = logging.getLogger(__name__)

EPISODES_AT_ONCE = 16
"""Episodes that are played at the same time, each in a process of its own."""
BAR_AFTER = 10.0
"""Seconds after which a progress bar is shown."""
LONGEST = 10_000
"""Decisions after which an episode that has not ended is cut, where nobody says otherwise."""
KEPT_BYTES = 2 * 2**30
"""Most that the rows of one evaluation take in memory. Those beyond are scored and not kept."""


@dataclass(frozen=True)
class EpisodeBatch:
    """One episode of each of N environments: returns, and its rows [N, T, ...] as far as they are kept.

    ``lengths`` counts rows that are kept. ``told`` is, of all that were played, 1 where one said that it was solved, 0
    where some said that it was not, -1 where none said anything; None: as the rows tell. ``cut`` counts episodes that
    had no end.
    """

    returns: list[float]
    rows: dict[str, Tensor]
    lengths: list[int]
    told: list[int] | None = None
    cut: int = 0
    frame_rate: float | int | None = None
    """Rows in a second, where the environment tells."""

    def successes(self) -> list[bool] | None:
        """Whether each was solved at any time. None where an environment does not tell at any time of an episode."""
        told = self.told
        if told is None:
            told = [int(self.rows["success"][n, :end].max()) for n, end in enumerate(self.lengths)]
        return None if min(told) < 0 else [bool(one) for one in told]


def play(
    envs: VectorEnv, agent: Agent, planner: Planner, max_steps: int = LONGEST, kept_bytes: int = KEPT_BYTES
) -> EpisodeBatch:
    """Play each environment until its first episode ends, or is cut after ``max_steps`` decisions.

    Rows are kept up to ``kept_bytes``, and at least the first.
    """
    rows = envs.reset()
    kept: list[dict[str, Tensor]] = []
    most = max(1, kept_bytes // sum(value.nbytes for value in rows.values()))
    done = torch.zeros(envs.num_envs, dtype=torch.bool)
    returns = torch.zeros(envs.num_envs, dtype=torch.float64)
    lengths = torch.zeros(envs.num_envs, dtype=torch.int64)
    told = torch.full((envs.num_envs,), UNKNOWN)
    for step in range(max_steps + 1):
        if step:
            agent.filter(rows)
            rows = envs.step(agent.act(planner, rows["is_first"]))
        if len(kept) < most:
            kept.append(rows)
            lengths += ~done
        returns += torch.where(done, 0.0, rows["reward"].double())
        told = torch.where(done, told, torch.maximum(told, rows["success"]))
        done = done | rows["is_last"]
        if done.all():
            break
    if kept_bytes and step >= most:
        tell_once(log, f"evaluation: rows beyond the first {most} of an episode are scored and not kept, for memory.")
    stacked = {key: torch.stack([row[key] for row in kept], 1) for key in rows}
    return EpisodeBatch(
        returns.tolist(), stacked, lengths.tolist(), told.tolist(), int((~done).sum()), envs.frame_rate()
    )


def evaluate(
    env: Mapping[str, Any],
    model: WorldModel,
    planner: Planner,
    episodes: int,
    seed: int,
    explore: bool,
    precision: Callable[[], AbstractContextManager] = nullcontext,
    max_steps: int = LONGEST,
) -> EpisodeBatch:
    """Play ``episodes``, one an environment and up to 16 at once, with a planner and what it consults.

    Episodes of evaluation seed s are none of those that training with seed s plays.
    """
    generator = torch.Generator(model.device).manual_seed(seed)

    def batch(envs: VectorEnv, kept_bytes: int) -> EpisodeBatch:
        require_same_spaces(envs, model, planner)
        agent = Agent(envs.num_envs, model, explore, generator, precision)
        return play(envs, agent, planner, max_steps, kept_bytes)

    return in_batches(env, episodes, seed, batch)


def evaluate_oracle(
    env: Mapping[str, Any],
    planner: Planner,
    episodes: int,
    seed: int,
    explore: bool,
    model: WorldModel | None = None,
    precision: Callable[[], AbstractContextManager] = nullcontext,
    max_steps: int = LONGEST,
) -> EpisodeBatch:
    """:func:`evaluate` with the simulator in the model's place, on the same episodes.

    ``UserError`` for a planner that acts by what it learned alone, without a search.

    Args:
        env: the environment.
        planner: what searches.
        episodes: how many.
        seed: of the evaluation.
        explore: whether it explores.
        model: whose features a guided search's policy and value read.
        precision: in which these are computed.
        max_steps: decisions after which an episode that has not ended is cut.
    """
    learned = bool(list(planner.parameters()))
    if learned and not is_guided_search(planner):
        raise UserError(
            "what a planner learned reads a model's features, which model=simulator has not, unless it guides a "
            "search: use one without learned parts, such as planner=mppi, or a guided one, such as "
            "planner=mppi_actor_critic."
        )
    reader = model if learned else None
    generator = torch.Generator("cpu" if reader is None else reader.device).manual_seed(seed)

    def batch(envs: VectorEnv, kept_bytes: int) -> EpisodeBatch:
        if reader is not None:
            require_same_spaces(envs, reader, planner)
        with Simulators(env, envs.discrete, complete=reader is not None) as simulators:
            oracle = Oracle(simulators, envs.action_dim, reader)
            agent = OracleAgent(envs, oracle, explore, generator, precision)
            return play(envs, agent, planner, max_steps, kept_bytes)

    return in_batches(env, episodes, seed, batch)


def is_guided_search(planner: Planner) -> bool:
    """Return whether a planner with learned parts searches, so that a simulator can stand in its model's place."""
    return isinstance(planner, Guided) and planner.mpc


def in_batches(
    env: Mapping[str, Any],
    episodes: int,
    seed: int,
    batch: Callable[[VectorEnv, int], EpisodeBatch],
    kept_bytes: int = KEPT_BYTES,
) -> EpisodeBatch:
    """Play so many episodes on held-out seeds, a few environments at once. A bar shows progress where it takes long.

    Episodes that were cut are told.
    """
    played, lots = [], math.ceil(episodes / EPISODES_AT_ONCE)
    with tqdm(desc="playing", total=episodes, unit="episode", delay=BAR_AFTER, leave=False, file=sys.stdout) as bar:
        for number, begun in enumerate(range(0, episodes, EPISODES_AT_ONCE)):
            size = min(EPISODES_AT_ONCE, episodes - begun)
            with held_out_envs(env, size, seed, number) as envs:
                played.append(batch(envs, kept_bytes // lots))
            bar.update(size)
    together = concat(played)
    if together.cut:
        tell_once(
            log,
            f"{together.cut} of {episodes} episodes of {describe(env)} had no end and were cut (evaluation.max_steps): "
            "their returns are of what was played; env.max_episode_steps=1000 with env=gym ends episodes.",
            logging.WARNING,
        )
    return together


def concat(played: list[EpisodeBatch]) -> EpisodeBatch:
    """Concatenate batches of episodes. Rows after the end of the longest of a batch are zero."""
    if len(played) == 1:
        return played[0]
    longest = max(max(batch.lengths) for batch in played)

    def padded(value: Tensor) -> Tensor:
        missing = value.new_zeros(value.shape[0], longest - value.shape[1], *value.shape[2:])
        return torch.cat([value, missing], dim=1)

    rows = {key: torch.cat([padded(batch.rows[key]) for batch in played]) for key in played[0].rows}
    returns, lengths = ([x for batch in played for x in getattr(batch, name)] for name in ("returns", "lengths"))
    told = None if any(batch.told is None for batch in played) else [x for batch in played for x in batch.told]
    return EpisodeBatch(returns, rows, lengths, told, sum(batch.cut for batch in played), played[0].frame_rate)


def play_baseline(
    env: Mapping[str, Any],
    planner_of: Callable[[int, bool], Planner],
    episodes: int,
    seed: int,
    max_steps: int = LONGEST,
) -> list[float]:
    """Return the returns of a policy that looks at nothing, on the same seeds.

    Frames are not drawn where that can be.
    """
    blind = {**env, **(read(Baselines, env).baseline_overrides or {})}
    return record_baseline(blind, planner_of, episodes, seed, max_steps, kept_bytes=0).returns


def record_baseline(
    env: Mapping[str, Any],
    planner_of: Callable[[int, bool], Planner],
    episodes: int,
    seed: int,
    max_steps: int = LONGEST,
    kept_bytes: int = KEPT_BYTES,
) -> EpisodeBatch:
    """Episodes of a policy that looks at nothing, every frame drawn."""
    generator = torch.Generator().manual_seed(seed)

    def batch(envs: VectorEnv, kept_bytes: int) -> EpisodeBatch:
        planner = planner_of(envs.action_dim, envs.discrete)
        agent = (StateAgent if planner.reads_state else ModelFreeAgent)(envs.num_envs, generator)
        return play(envs, agent, planner, max_steps, kept_bytes)

    return in_batches(env, episodes, seed, batch, kept_bytes)


def table(result: Mapping[str, Any]) -> str:
    """The result as people read it."""
    lines = [f"{'return':<22}{'mean':>9}{'std':>8}"]
    scored, other = ("stochastic", "deterministic") if result["explore"] else ("deterministic", "stochastic")
    lines.append(f"{result['planner'] + f' ({scored})':<22}{result['return_mean']:>9.1f}{result['return_std']:>8.1f}")
    lines.append(f"{result['planner'] + f' ({other})':<22}{result[f'return_{other}_mean']:>9.1f}")
    if "success_rate" in result:
        lines.append(f"{'solved, of ' + str(result['episodes']):<22}{100 * result['success_rate']:>8.0f} %")
    if "normalized_score" in result:
        lines.append(f"{'normalized score':<22}{result['normalized_score']:>9.1f}")
    lines += [f"{name:<22}{score:>9.1f}" for name, score in result["baselines"].items()]
    return "\n".join(lines)
