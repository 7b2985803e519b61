"""Traces an update of a tiny world model with each planner that is named; prints its losses and the eager ones as JSON.

Run by test_precision as a process, as `compiled_updates.py` is, with words such as `cloning;actor_critic
gradient=dynamics`: importing takes longer than tracing one.
The tracing, forward and backward, is held to one graph, which resets and what is drawn at random do not change: what a
compiler then makes of the graph is the backbones' test.
"""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from pathlib import Path

import torch
from compiled_updates import differences
from model_cases import ACTION, STATE, batch, model
from omegaconf import OmegaConf
from planner_cases import PLANNERS, options

from worldmodels.factory import build_planner
from worldmodels.training.losses import FixedScales
from worldmodels.training.module import WorldModelModule
from worldmodels.training.optim import NormClip

LENGTH, HORIZON, UPDATES, BACKBONE = 9, 4, 4, {"actor_critic": "rssm"}


def updates(words: str, compiled: bool) -> tuple[list[dict[str, float]], list[dict[str, torch.Tensor]]]:
    """Mean losses and gradients of updates whose batches have resets in different places."""
    name, *more = words.split()
    goals = PLANNERS[name] == "goals"
    observations = STATE | ({"goal_state": STATE["state"]} if goals else {})
    world = model(f"dynamics={BACKBONE.get(name, 'implicit')}", observations=observations)
    chosen = OmegaConf.create(options(name, plan_horizon=HORIZON, **dict(word.split("=") for word in more)))
    planner = build_planner(chosen, ACTION, False, world.dynamics.feature_spec)
    module = WorldModelModule(
        world, planner, partial(torch.optim.SGD, lr=1e-3), NormClip(1.0), FixedScales({}), {}, 0, 0.0, Path()
    ).train()
    step = torch.compile(module.losses, fullgraph=True, backend="aot_eager") if compiled else module.losses
    optimizer, found, gradients = module.configure_optimizers(), [], []
    for seed in range(UPDATES):
        rows = batch(4, LENGTH, seed, STATE)
        rows["is_first"][0, seed] = rows["is_first"][1, -1 - seed] = True
        if goals:
            rows["goal_state"] = rows["state"].flip(1)
        torch.manual_seed(seed)
        losses, _ = step(rows)
        means = {name: loss.mean() for name, loss in losses.items()}
        sum(means.values()).backward()
        gradients.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
        optimizer.step()
        optimizer.zero_grad()
        module.after_step()
        found.append({name: mean.item() for name, mean in means.items()})
    return found, gradients


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    torch._dynamo.config.error_on_recompile = True
    found = {}
    for words in sys.argv[1].split(";"):
        torch.compiler.reset()
        found[words] = differences(updates(words, False), updates(words, True))
    json.dump(found, sys.stdout)
