"""Scores in environments of their own, with generators of their own, beside what needs no learning."""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Generator, Tensor
from tqdm import tqdm

from dynamics.base import Memory, State
from planners.base import Planner
from planners.random import Random
from worldmodels.build import build_planner
from worldmodels.data.collect import Actor
from worldmodels.encoders import ObservationSpec
from worldmodels.envs.base import GOAL, derive_seed
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.model import WorldModel
from worldmodels.oracle import Oracle, OracleActor, Simulators
from worldmodels.runs import Run

log = logging.getLogger(__name__)

HELD_OUT = 2**16
"""Part of the seed of environments that no training steps; no environment of a training has so high a number."""
AT_ONCE = 16
"""Episodes that are played at the same time, each in a process of its own."""
BAR_AFTER = 10.0
"""Seconds after which a progress bar is shown."""
LONGEST = 30_000
"""Decisions after which an episode is taken to have no end; Atari's longest have 27,000."""


class Constant(Planner):
    """Always the same action: what doing nothing, or full throttle, scores."""

    def __init__(self, action_dim: int, discrete: bool, value: float) -> None:
        super().__init__(action_dim, discrete)
        self.value = value

    def initial(self, n: int) -> Memory:
        """Nothing to remember."""
        return {}

    def act(
        self,
        model: Any,
        state: State,
        memory: Memory,
        reset: Bool[Tensor, " N"],
        explore: bool,
        generator: Generator | None = None,
    ) -> tuple[Float[Tensor, "N A"], Memory]:
        """The constant, whatever the state."""
        return torch.full((len(reset), self.action_dim), self.value), memory


class Blind(Actor):
    """Stands where an :class:`Actor` stands, for planners that look at nothing: no model, no filtering."""

    model = None

    def __init__(self, n: int, generator: Generator) -> None:
        self.state, self.memory, self.generator = State(torch.zeros(n, 1), {}), None, generator

    def filter(self, rows: dict[str, Tensor]) -> None:
        """Look away."""

    def act(self, planner: Planner, reset: Tensor) -> Tensor:
        """Choose without a state."""
        if self.memory is None:
            self.memory = planner.initial(len(reset))
        action, self.memory = planner.act(None, self.state, self.memory, reset, True, self.generator)
        return action


class Sighted(Blind):
    """Likewise, for planners that read the observation itself instead of features (``reads_state``)."""

    def filter(self, rows: dict[str, Tensor]) -> None:
        """Look at ``state``, and at the goal's."""
        if "state" not in rows:
            raise UserError("a planner that reads positions needs env.obs=state or both.")
        keys = [key for key in ("state", GOAL + "state") if key in rows]
        self.state = State(torch.cat([rows[key] for key in keys], dim=-1), {})


@dataclass(frozen=True)
class Episodes:
    """One episode of each of N environments: returns, and every row [N, T, ...] up to the longest."""

    returns: list[float]
    rows: dict[str, Tensor]
    lengths: list[int]

    def successes(self) -> list[bool] | None:
        """Whether each was solved at any time; None where the environments do not tell."""
        told = [self.rows["success"][n, :end] for n, end in enumerate(self.lengths)]
        if any((success < 0).any() for success in told):
            return None
        return [bool(success.any()) for success in told]


def play(envs: VectorEnv, actor: Actor, planner: Planner) -> Episodes:
    """Play each environment until its first episode ends; ``UserError`` if one never does."""
    rows = envs.reset()
    tape: list[dict[str, Tensor]] = []
    done = torch.zeros(envs.num_envs, dtype=torch.bool)
    returns = torch.zeros(envs.num_envs, dtype=torch.float64)
    lengths = torch.zeros(envs.num_envs, dtype=torch.int64)
    while len(tape) < LONGEST:
        tape.append(rows)
        returns += torch.where(done, 0.0, rows["reward"].double())
        lengths += ~done
        done = done | rows["is_last"]
        if done.all():
            return Episodes(returns.tolist(), {k: torch.stack([r[k] for r in tape], 1) for k in rows}, lengths.tolist())
        actor.filter(rows)
        rows = envs.step(actor.act(planner, rows["is_first"]))
    raise UserError(
        f"an episode of {envs.name} has not ended within {LONGEST} decisions: give it a time limit, such as "
        "env.kwargs.max_episode_steps=1000 with env=gym."
    )


def evaluate(
    env: Mapping[str, Any],
    model: WorldModel,
    planner: Planner,
    episodes: int,
    seed: int,
    explore: bool,
    precision: Callable[[], AbstractContextManager] = nullcontext,
) -> Episodes:
    """Play ``episodes``, one an environment and up to 16 at once, with a planner and what it consults.

    Episodes of evaluation seed s are none of those that training with seed s plays.
    """
    generator = torch.Generator(model.device).manual_seed(seed)

    def lot(envs: VectorEnv) -> Episodes:
        require_same_spaces(envs, model, planner)
        return play(envs, Actor(envs.num_envs, model, explore, generator, precision), planner)

    return in_lots(env, episodes, seed, lot)


def evaluate_oracle(env: Mapping[str, Any], planner: Planner, episodes: int, seed: int, explore: bool) -> Episodes:
    """:func:`evaluate` with the simulator in the model's place, on the same episodes.

    ``UserError`` for a planner with learned parts, which read a model's features.
    """
    if list(planner.parameters()):
        raise UserError(
            "what a planner learned reads a model's features, which model=oracle has not: use one without learned "
            "parts, such as planner=mppi."
        )
    generator = torch.Generator().manual_seed(seed)

    def lot(envs: VectorEnv) -> Episodes:
        with Simulators(env, envs.discrete) as simulators:
            oracle = Oracle(simulators, envs.action_dim)
            return play(envs, OracleActor(envs, oracle, explore, generator), planner)

    return in_lots(env, episodes, seed, lot)


def in_lots(env: Mapping[str, Any], episodes: int, seed: int, lot: Callable[[VectorEnv], Episodes]) -> Episodes:
    """Play so many episodes on held-out seeds, a few environments at once; a bar says how far, where it takes long."""
    played = []
    with tqdm(desc="playing", total=episodes, unit="episode", delay=BAR_AFTER, leave=False, file=sys.stdout) as bar:
        for number, begun in enumerate(range(0, episodes, AT_ONCE)):
            size = min(AT_ONCE, episodes - begun)
            with VectorEnv(env, size, derive_seed(seed, HELD_OUT + number), env["step_timeout"]) as envs:
                played.append(lot(envs))
            bar.update(size)
    return joined(played)


def joined(played: list[Episodes]) -> Episodes:
    """Several lots of episodes as one; rows after the end of the longest of a lot are zero."""
    if len(played) == 1:
        return played[0]
    longest = max(max(lot.lengths) for lot in played)

    def padded(value: Tensor) -> Tensor:
        missing = value.new_zeros(value.shape[0], longest - value.shape[1], *value.shape[2:])
        return torch.cat([value, missing], dim=1)

    rows = {key: torch.cat([padded(lot.rows[key]) for lot in played]) for key in played[0].rows}
    returns, lengths = ([x for lot in played for x in getattr(lot, name)] for name in ("returns", "lengths"))
    return Episodes(returns, rows, lengths)


def play_blind(
    env: Mapping[str, Any], planner_of: Callable[[int, bool], Planner], episodes: int, seed: int
) -> list[float]:
    """Returns of a policy that looks at nothing, on the same seeds; frames are not drawn where that can be."""
    return record_blind({**env, **env.get("blind", {})}, planner_of, episodes, seed).returns


def record_blind(
    env: Mapping[str, Any], planner_of: Callable[[int, bool], Planner], episodes: int, seed: int
) -> Episodes:
    """Episodes of a policy that looks at nothing, every frame drawn."""
    generator = torch.Generator().manual_seed(seed)

    def lot(envs: VectorEnv) -> Episodes:
        planner = planner_of(envs.action_dim, envs.discrete)
        return play(envs, (Sighted if planner.reads_state else Blind)(envs.num_envs, generator), planner)

    return in_lots(env, episodes, seed, lot)


def require_same_spaces(envs: VectorEnv, model: WorldModel, planner: Planner) -> None:
    """Refuse environments that a model was not made for."""
    if (envs.observation_spec, envs.action_dim) != (model.encoder.observations, planner.action_dim):
        raise UserError(
            f"this environment has observations {describe_spec(envs.observation_spec)} and {envs.action_dim} actions, "
            f"the model was made for {describe_spec(model.encoder.observations)} and {planner.action_dim}: use the env "
            "settings it was trained with."
        )


def describe_spec(spec: ObservationSpec) -> str:
    """Observations as a sentence holds them."""
    return ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, (shape, _) in spec.items())


def blind_policies(run: Run) -> dict[str, Callable[[int, bool], Planner]]:
    """What looks at nothing, by name; constant actions only where actions form a box."""
    policies: dict[str, Callable[[int, bool], Planner]] = {
        "random": Random,
        "prefill": lambda a, d: build_planner(run.cfg.prefill_planner, a, d),
    }
    if not run.discrete:
        for name, value in (("zero", 0.0), ("plus_one", 1.0), ("minus_one", -1.0)):
            policies[name] = lambda a, d, value=value: Constant(a, d, value)
    if run.cfg.env.get("reference"):
        policies["reference"] = lambda a, d: build_planner(run.cfg.env.reference, a, d)
    return policies


def baselines(run: Run, episodes: int, seed: int) -> dict[str, float]:
    """Mean returns of what looks at nothing, on the same seeds."""
    policies = blind_policies(run)
    return {name: statistics.fmean(play_blind(run.cfg.env, p, episodes, seed)) for name, p in policies.items()}


def table(result: Mapping[str, Any]) -> str:
    """The result as people read it."""
    lines = [f"{'return':<22}{'mean':>9}{'std':>8}"]
    lines.append(
        f"{result['planner'] + ' (deterministic)':<22}{result['return_mean']:>9.1f}{result['return_std']:>8.1f}"
    )
    lines.append(f"{result['planner'] + ' (stochastic)':<22}{result['return_stochastic_mean']:>9.1f}")
    if "success_rate" in result:
        lines.append(f"{'solved, of ' + str(result['episodes']):<22}{100 * result['success_rate']:>8.0f} %")
    if "normalised_score" in result:
        lines.append(f"{'normalised score':<22}{result['normalised_score']:>9.1f}")
    lines += [f"{name:<22}{score:>9.1f}" for name, score in result["baselines"].items()]
    return "\n".join(lines)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON, whole or not at all, into a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(unfinished, path)


def write_report(folder: Path, name: str, content: Mapping[str, Any], text: str, figure: Figure) -> None:
    """A result as JSON, as a table and as a figure, ``name`` with three endings; the table is shown too."""
    write_json(folder / f"{name}.json", content)
    (folder / f"{name}.md").write_text(text + "\n")
    figure.savefig(folder / f"{name}.png", dpi=120)
    log.info("\n%s\n\nin %s: %s.json, .md and .png", text, folder, name)
