"""DreamerV3 in one sitting: a world model, an actor and a critic that learn in it, and the loop around them.

    python examples/minimal_dreamer.py

Plain Python with the library's parts: no configuration files, no trainer. The world is a toy, six places in a row with
a reward at the far end and ten steps to get there, so that half a minute on one CPU core is enough. Any environment
that `worldmodels.envs.vector.VectorEnv` takes would do, from pixels too.
"""

from __future__ import annotations

import tempfile
from functools import partial

import torch

from dynamics.gru import GRU
from dynamics.latent import StochasticLatent
from planners.actor_critic import ActorCritic
from planners.base import Planner
from planners.random import Random
from worldmodels.agent import Agent
from worldmodels.common.batch import split_context
from worldmodels.data.collect import row_spec
from worldmodels.data.replay import Replay
from worldmodels.envs.vector import VectorEnv
from worldmodels.evaluation.rollout import play
from worldmodels.heads.arrival import ContinueHead, RewardHead
from worldmodels.model import WorldModel
from worldmodels.nets.categorical import CategoricalLatent
from worldmodels.nets.decoders import Decoder
from worldmodels.nets.encoders import Encoder
from worldmodels.objectives.reconstruction import Reconstruction

ENV = {"_target_": "worldmodels.envs.toy.Chain", "length": 6, "limit": 10}
NUM_ENVS, PREFILL, STEPS = 2, 150, 400
BATCH, LENGTH = 8, 16
UNITS = 64
SCALES = {
    **{"dyn": 1.0, "rep": 0.1},  # the KL: prior towards posterior, posterior towards prior
    **{"state": 1.0, "reward": 1.0, "cont": 1.0},  # what the latent must tell
    **{"actor": 1.0, "critic": 1.0, "replay_critic": 0.3},
}
"""Factors of all losses, by name."""


def build(envs: VectorEnv) -> tuple[WorldModel, ActorCritic]:
    """Put the parts together: encoder, RSSM, heads, reconstruction; actor and critic on its features."""
    encoder = Encoder(envs.observation_spec, depth=8, units=UNITS)
    # The RSSM is a GRU with a stochastic latent around it; another core makes another backbone.
    dynamics = StochasticLatent(
        embed_dim=encoder.embed_shape[-1],
        action_dim=envs.action_dim,
        core=partial(GRU, deter=UNITS, hidden=UNITS, blocks=4),
        latent=CategoricalLatent(groups=8, classes=8),
        hidden=UNITS,
    )
    feat_dim = dynamics.feat_dim
    model = WorldModel(
        encoder,
        dynamics,
        heads={
            "reward": RewardHead(feat_dim, envs.action_dim, units=UNITS),
            "cont": ContinueHead(feat_dim, envs.action_dim, units=UNITS),
        },
        objectives={
            "reconstruction": Reconstruction(
                feat_dim, envs.observation_spec, decoder=partial(Decoder, depth=8, units=UNITS)
            )
        },
    )
    net = {"units": UNITS, "layers": 2}
    planner = ActorCritic(feat_dim, envs.action_dim, envs.discrete, actor=net, critic=net, imag_horizon=15, gamma=0.95)
    return model, planner


def update(
    model: WorldModel, planner: ActorCritic, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]
) -> dict[str, float]:
    """One update of everything on a batch of windows [B, T]; return the mean of each loss."""
    # Mark where time breaks: at an episode's first frame, and at a window's first row, before which nothing is known.
    _, window = split_context(batch, prefix=0)
    # Filter the windows; KL, reconstruction and heads learn on the posterior states.
    losses, rollout = model.losses(window, model.initial(len(window["action"])))
    # Imagine on from every posterior state; actor and critic learn on what is imagined.
    losses |= planner.loss(model, rollout, window)
    means = {name: loss.mean() for name, loss in losses.items()}
    total = sum(SCALES[name] * mean for name, mean in means.items())
    optimizer.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_([*model.parameters(), *planner.parameters()], 100.0)
    optimizer.step()
    planner.after_step()  # the critic's slow copy follows
    return {name: mean.item() for name, mean in means.items()}


def evaluate(model: WorldModel, planner: Planner) -> float:
    """Mean return of episodes in environments of their own, without exploring."""
    with VectorEnv(ENV, NUM_ENVS, seed=1000) as envs:
        agent = Agent(NUM_ENVS, model, explore=False, generator=torch.Generator().manual_seed(1))
        return sum(play(envs, agent, planner).returns) / NUM_ENVS


def main(steps: int = STEPS) -> tuple[float, float]:
    """Train for so many steps of each environment; return the mean return before and after."""
    torch.manual_seed(1)
    torch.set_num_threads(1)  # nets as small as these gain nothing by more
    with VectorEnv(ENV, NUM_ENVS, seed=0) as envs, tempfile.TemporaryDirectory() as folder:
        model, planner = build(envs)
        random = Random(envs.action_dim, envs.discrete, noise_beta=1.0)  # drifts, and so gets farther
        optimizer = torch.optim.Adam([*model.parameters(), *planner.parameters()], lr=1e-3, eps=1e-5)
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
