"""The quality of a model apart from that of whoever plans with it: does it predict, and does it rank?"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from dynamics.base import State
from planners.base import Model
from planners.random import Random
from planners.search.proposals import color_noise
from planners.streams import RowStreams
from worldmodels.agent import Agent
from worldmodels.common.batch import split_context
from worldmodels.common.columns import cameras
from worldmodels.common.frames import last_frame
from worldmodels.common.randomness import own_randomness
from worldmodels.envs.vector import VectorEnv, held_out_envs
from worldmodels.evaluation.oracle import Oracle, OracleAgent
from worldmodels.evaluation.report import play_held_out, windows
from worldmodels.evaluation.rollout import EpisodeBatch, record_baseline
from worldmodels.evaluation.simulators import Simulators
from worldmodels.nets.encoders import pixels_to_float
from worldmodels.runs.loading import Run

ROWS, STOPS, APART = 4, 4, 20
"""States from which sequences are ranked: episodes, states of each, and the decisions between these."""
SEQUENCES = 64
"""Sequences that are ranked in each state."""


@torch.no_grad()
def prediction_errors(run: Run, held_out: EpisodeBatch) -> dict[str, list[float]]:
    """Return errors of imagining recorded actions, by quantity and imagined step (1, 2, …), each over that of a mean.

    ``pixels`` and ``state``: squared error of what is decoded. ``latent``: squared distance to the latent that
    filtering gives. ``reward``: squared error. All stand over the variance of what is predicted, so that 1 is no better
    than its mean. ``cont``: how often the likelier of going on and ending is wrong, ends and all else counting half
    each where there are ends in an imagined step, so that always going on errs by a half. One sampled future.
    """
    cfg, device = run.cfg.evaluation, run.model.device
    context, steps = cfg.context, cfg.imag_horizon
    _, batch = split_context(
        {k: v.to(device) for k, v in windows(held_out, context + steps, to_the_end=True).items()}, 0
    )
    generator = torch.Generator(device).manual_seed(0)
    with own_randomness(generator):
        filtered, _, _ = run.model.observe(batch, run.model.initial(len(batch["action"])))
        seen = {key: value[:, :context] for key, value in batch.items()}
        _, state, _ = run.model.observe(seen, run.model.initial(len(batch["action"])))
    imagined = run.model.imagine(state, batch["action"][:, context:], steps, generator)
    feat = imagined.feat[:, 1:]
    found = {
        "latent": (feat, filtered.post[:, context:]),
        "reward": (imagined.reward[..., None], batch["reward"][:, context:, None]),
    }
    for key, value in run.model.decode(feat).items():
        truth = batch[key][:, context:]
        found[key] = (
            (last_frame(value), pixels_to_float(last_frame(truth))) if key in cameras(batch) else (value, truth)
        )
    errors = {key: relative_error(*pair).tolist() for key, pair in found.items()}
    return errors | {"cont": balanced_error(imagined.cont < 0.5, batch["is_terminal"][:, context:]).tolist()}


def balanced_error(guess: Bool[Tensor, "B H"], truth: Bool[Tensor, "B H"]) -> Float[Tensor, " H"]:
    """Share of wrong guesses at each step, the mean of both kinds' where there are both."""
    wrong = guess != truth
    shares = [(wrong & kind).sum(0) / kind.sum(0) for kind in (truth, ~truth)]  # 0 / 0 where a kind is missing
    return torch.stack(shares).nanmean(0)


def relative_error(guess: Float[Tensor, "B H ..."], truth: Float[Tensor, "B H ..."]) -> Float[Tensor, " H"]:
    """Squared error of each step over the variance of the truth, all windows and steps together."""
    error = (guess - truth).square().flatten(2).mean((0, 2))
    spread = (truth - truth.mean((0, 1))).square().mean()
    return error / spread.clamp(min=1e-8)


def common_episodes(runs: list[Run], seed: int) -> list[EpisodeBatch]:
    """Record the episodes that score all models, on one set of seeds: drifting noise, and each run's planner's."""
    first = runs[0].cfg
    scored = first.evaluation
    noise = record_baseline(first.env, partial(Random, noise_beta=1.0), scored.episodes, seed, scored.max_steps)
    return [noise, *(play_held_out(run, scored.episodes, seed, explore=True) for run in runs)]


def mixed_actions(played: list[EpisodeBatch]) -> Float[Tensor, "N T A"]:
    """Actions of a few held-out episodes, taken in turn from each set of them."""
    rows = min(ROWS, min(len(episodes.returns) for episodes in played))
    recorded = [played[n % len(played)].rows["action"][n, 1:] for n in range(rows)]
    return torch.stack([actions[: min(map(len, recorded))] for actions in recorded])


@torch.no_grad()
def ranking(run: Run, seed: int, actions: Float[Tensor, "N T A"]) -> dict[str, Any]:
    """Spearman's correlation of imagined with true returns of action sequences, from the same physics states.

    Sequences of drifting noise, as long as what was scored in imagination, from states along the held-out episodes that
    these actions make. One correlation a state. True returns are the simulator's.
    """
    generator = torch.Generator().manual_seed(seed)
    steps, correlations = run.cfg.evaluation.imag_horizon, []
    with (
        held_out_envs(run.cfg.env, len(actions), seed) as envs,
        Simulators(run.cfg.env, envs.discrete) as simulators,
    ):
        oracle = Oracle(simulators, envs.action_dim)
        agent = Agent(len(actions), run.model, True, torch.Generator(run.model.device).manual_seed(seed))
        truth = OracleAgent(envs, oracle, True, generator)
        rows = envs.reset()
        for step in range(min(1 + (STOPS - 1) * APART, actions.shape[1])):
            agent.filter(rows)
            if step % APART == 0:
                truth.filter(rows)
                tried = sequences(envs, steps, generator)
                actual = returns(oracle, truth.state, tried, generator)
                guess = returns(run.model, agent.state, tried.to(run.model.device), agent.generator)
                correlations += correlate(guess.cpu(), actual)
            rows = envs.step(actions[:, step])
    return {
        "states": len(actions) * len(range(0, step + 1, APART)),
        "sequences": SEQUENCES,
        "steps": steps,
        "correlations": correlations,
        "mean": statistics.fmean(correlations) if correlations else None,
    }


def sequences(envs: VectorEnv, steps: int, generator: torch.Generator) -> Float[Tensor, "N S H A"]:
    """Drifting noise, as the prefill acts, for every environment."""
    streams = RowStreams.seeded(envs.num_envs, generator, torch.device("cpu"))
    normal = streams.normal(SEQUENCES, steps, envs.action_dim)
    return Random(envs.action_dim, envs.discrete).actions(color_noise(normal, 1.0))


def returns(
    model: Model, state: State, tried: Float[Tensor, "N S H A"], generator: torch.Generator
) -> Float[Tensor, "N S"]:
    """Undiscounted returns of sequences from N states."""
    forked = model.dynamics.fork(state, SEQUENCES)
    imagined = model.imagine(forked, tried.flatten(0, 1), tried.shape[2], generator)
    return imagined.discounted_return(1.0).unflatten(0, tried.shape[:2])


def correlate(guess: Float[Tensor, "N S"], actual: Float[Tensor, "N S"]) -> list[float]:
    """Return the rank correlation of each row, 0 for a guess that tells nothing apart.

    Rows of one true return are left out.
    """
    return [
        float(spearmanr(g.numpy(), a.numpy()).statistic) if g.max() > g.min() else 0.0
        for g, a in zip(guess, actual, strict=True)
        if a.max() > a.min()
    ]
