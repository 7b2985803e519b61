"""Traces the losses of presets and the searches of planners; prints how far they are from eager ones, as JSON.

Run by test_precision as a process, as `compiled_updates.py` is. Words: names of `suite=launches`. It fails where one of
them is not one graph.
"""

from __future__ import annotations

import json
import logging
import sys

import torch
from torch.utils._pytree import tree_leaves

from dynamics.base import Memory
from planners.base import Decision
from planners.guided import Guided
from planners.search.shooting import SamplingPlanner
from worldmodels.benchmarks.launches import SUBJECTS, Made, make
from worldmodels.common.batch import split_context

SMALL = ("data.length=6", "data.batch_size=2", "env.num_envs=2", "size.depth=4", "size.units=8")


def apart(function, *args) -> float:
    """Return how far what is traced as one graph differs from what is not: the largest, relative to its tensor."""
    torch.compiler.reset()
    found = []
    for call in (function, torch.compile(function, fullgraph=True, backend="eager")):
        torch.manual_seed(0)
        found.append([leaf for leaf in tree_leaves(call(*args)) if torch.is_tensor(leaf) and leaf.is_floating_point()])
    return max(((p - q).abs().max() / p.abs().max().clamp(min=1e-6)).item() for p, q in zip(*found, strict=True))


def losses(made: Made) -> dict[str, float]:
    """The losses of an update, and of a planner's further step."""
    module, planner = made.module.train(), made.module.planner
    found = {"losses": apart(lambda rows: module.losses(rows)[0], made.batch)}
    if planner.follow_up_losses:
        window, rollout = split_context(made.batch, module.prefix)[1], module.losses(made.batch)[1].detach()
        found["follow_up"] = apart(planner.follow_up, module.model, rollout, window)
    return found


@torch.no_grad()
def plan(made: Made) -> dict[str, float]:
    """A whole search, or what a policy does."""
    module, rows = made.module.eval(), made.cfg.env.num_envs
    planner = module.planner.search if isinstance(module.planner, Guided) else module.planner

    def decide(memory: Memory) -> object:
        decision = Decision.begin(module.model, module.model.initial(rows), True, None)
        return (planner.search if isinstance(planner, SamplingPlanner) else planner._act)(decision, memory)

    return {"plan": apart(decide, planner.initial(rows))}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    run = {"losses": losses, "plan": plan}[sys.argv[2]]
    json.dump({name: run(make([*SUBJECTS[name], *SMALL])) for name in sys.argv[1].split(";")}, sys.stdout)
