"""TD-MPC2 in one sitting: a latent without a decoder, a policy and Q functions, and a search that they guide.

    python examples/minimal_tdmpc.py

Plain Python with the library's parts: no configuration files, no trainer. The world is a toy, six places in a row with
a reward at the far end and ten steps to get there, so that half a minute on one CPU core is enough.
"""

from __future__ import annotations

import tempfile
from functools import partial

import torch
from torch import Tensor

from dynamics.implicit import Implicit
from planners.guided import Guided
from planners.mppi import MPPI
from planners.random import Random
from planners.tdmpc import TDLearner
from worldmodels.agent import Agent
from worldmodels.common.batch import split_context
from worldmodels.data.collect import row_spec
from worldmodels.data.replay import Replay
from worldmodels.envs.vector import VectorEnv
from worldmodels.evaluation.rollout import play
from worldmodels.heads.arrival import ContinueHead
from worldmodels.heads.transition import TransitionRewardHead
from worldmodels.model import WorldModel
from worldmodels.nets.encoders import Encoder

ENV = {"_target_": "worldmodels.envs.toy.Chain", "length": 6, "limit": 10}
NUM_ENVS, PREFILL, STEPS = 2, 150, 400
BATCH, LENGTH = 64, 4
UNITS = 64
SCALES = {"consistency": 20.0, "reward": 0.1, "cont": 0.1, "q": 0.1, "policy": 1.0}
"""Factors of all losses, by name; the published ones."""


def build(envs: VectorEnv) -> tuple[WorldModel, Guided]:
    """Put the parts together: encoder, latent, heads; a search guided by a policy and an ensemble of Q functions."""
    encoder = Encoder(envs.observation_spec, depth=8, units=UNITS, layers=1)
    # No decoder and no posterior: latents that follow from actions are held to those that the encoder makes.
    dynamics = Implicit(encoder.embed_shape[-1], envs.action_dim, latent=UNITS, hidden=UNITS, unroll=3)
    head = {"feat_dim": dynamics.feat_dim, "action_dim": envs.action_dim, "units": UNITS}
    heads = {"reward": TransitionRewardHead(**head, num_bins=101, symlog_limit=10.0), "cont": ContinueHead(**head)}
    model = WorldModel(encoder, dynamics, heads, objectives={})
    net = {"units": UNITS, "layers": 2}
    planner = Guided(
        envs.action_dim,
        envs.discrete,
        learner=partial(
            TDLearner,
            feat_dim=dynamics.feat_dim,
            policy=net | {"min_std": 4.54e-5, "max_std": 7.389},
            q=net | {"num_q": 5, "num_bins": 101, "symlog_limit": 10.0, "dropout": 0.01},
            gamma=0.95,
        ),
        # MPPI tries sequences of three actions; some are the policy's, and each ends with the value of its last state.
        search=partial(
            MPPI,
            plan_horizon=3,
            num_samples=64,
            num_elites=8,
            iterations=4,
            min_std=0.05,
            max_std=2.0,
            temperature=2.0,
            normalize_values=False,
            gamma=0.95,
        ),
        policy_samples=4,
    )
    return model, planner


def update(
    model: WorldModel, planner: Guided, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]
) -> dict[str, float]:
    """One update of everything on a batch of windows [B, T]; return the mean of each loss."""
    # Mark where time breaks: at an episode's first frame, and at a window's first row, before which nothing is known.
    _, window = split_context(batch, prefix=0)
    # Ground latents in the first frame, follow them by the actions, hold them to what the encoder says of later frames.
    losses, rollout = model.losses(window, model.initial(len(window["action"])))
    # Q learns on the latents that were followed and shapes them; the policy learns to please Q.
    losses |= planner.loss(model, rollout, window)
    means = {name: loss.mean() for name, loss in losses.items()}
    total = sum(SCALES[name] * mean for name, mean in means.items())
    optimizer.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_([*model.parameters(), *planner.parameters()], 20.0)
    optimizer.step()
    planner.after_step()  # the targets of Q follow
    return {name: mean.item() for name, mean in means.items()}


def evaluate(model: WorldModel, planner: Guided) -> float:
    """Mean return of episodes in environments of their own, without exploring."""
    with VectorEnv(ENV, NUM_ENVS, seed=1000) as envs:
        agent = Agent(NUM_ENVS, model, explore=False, generator=torch.Generator().manual_seed(1))
        return sum(play(envs, agent, planner).returns) / NUM_ENVS


def main(steps: int = STEPS) -> tuple[float, float]:
    """Train for so many steps of each environment; return the mean return before and after."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # nets as small as these gain nothing by more
    with VectorEnv(ENV, NUM_ENVS, seed=0) as envs, tempfile.TemporaryDirectory() as folder:
        model, planner = build(envs)
        random = Random(envs.action_dim, envs.discrete, noise_beta=1.0)  # drifts, and so gets farther
        optimizer = torch.optim.Adam([*model.parameters(), *planner.parameters()], lr=1e-3)
        replay = Replay(folder, row_spec(envs), NUM_ENVS, capacity=20_000, limit_gib=1)
        agent = Agent(NUM_ENVS, model, explore=True, generator=torch.Generator().manual_seed(0))
        before = evaluate(model, planner)
        rows = envs.reset()
        for step in range(steps):
            agent.filter(rows)  # the newest frames into the latent state
            replay.extend(rows)
            if step == PREFILL:
                agent.memory = None  # another planner acts from here on
            action = agent.act(random if step < PREFILL else planner, rows["is_first"])
            rows = envs.step(action)
            if step >= PREFILL:
                losses = update(model, planner, optimizer, replay.sample(BATCH, LENGTH))
                if step % 100 == 0:
                    print(f"step {step}: " + ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))
        after = evaluate(model, planner)
    print(f"mean return of an episode: untrained {before:.2f}, trained {after:.2f}; the best is 1.0")
    return before, after


if __name__ == "__main__":
    main()
