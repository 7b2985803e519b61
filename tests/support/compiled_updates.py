"""Compiles a tiny world model with the named backbone and compiler, and prints, as JSON, how it differs from eager.

`untrained` for a backbone: compiles the heads alone, and prints what they predict which have learned nothing.

Run by test_precision as a process.

A process of its own: the hook that checks shapes in the tests would be compiled too.
"""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from pathlib import Path

import torch
from dynamics_cases import subjects
from model_cases import ACTION, BOTH, STATE, batch, config, model, with_reset

from planners.learning.critics import Critic
from planners.random import Random
from planners.tdmpc import QEnsemble
from worldmodels.factory import loss_scales
from worldmodels.heads.arrival import RewardHead
from worldmodels.nets.encoders import ObservationSpec
from worldmodels.testing.learning import Learning
from worldmodels.testing.sequences import randomize
from worldmodels.training.losses import FixedScales
from worldmodels.training.module import WorldModelModule
from worldmodels.training.optim import NormClip

LENGTH, UPDATES = 3, 3
Updates = tuple[list, list[dict[str, torch.Tensor]]]  # losses and gradients of each


def module(name: str) -> WorldModelModule:
    words = (f"dynamics={name}", "latent=categorical")
    return WorldModelModule(
        model(*words, observations=BOTH),
        Random(ACTION, False),
        partial(torch.optim.SGD, lr=0.05),
        NormClip(1.0),
        FixedScales(loss_scales(config(*words), BOTH)),
        {},
        0,
        0.0,
        Path(),
    )


def batches(observations: ObservationSpec) -> list[dict[str, torch.Tensor]]:
    """Windows with resets in different places: none inside, in one row, in both."""
    made = [batch(2, LENGTH, seed, observations) for seed in range(UPDATES)]
    made[1]["is_first"][0, 2] = made[2]["is_first"][0, 1] = made[2]["is_first"][1, 2] = True
    return made


def updates(name: str, compiled: bool) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
    """Losses and gradients of three updates."""
    trained = module(name)
    if compiled:
        trained.compile_losses()
    optimizer = trained.configure_optimizers()
    totals, gradients = [], []
    for rows in batches(BOTH):
        losses, _ = trained.step_losses(rows)
        total, _ = trained.balance({name: loss.mean() for name, loss in losses.items()})
        optimizer.zero_grad()
        total.backward()
        totals.append(total.item())
        gradients.append({name: p.grad.clone() for name, p in trained.named_parameters() if p.grad is not None})
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
    return totals, gradients


def differences(eager: Updates, compiled: Updates) -> dict[str, object]:
    """Losses of both kinds, and for each update the largest difference of a gradient, relative to its norm."""
    (losses, eager_grads), (compiled_losses, compiled_grads) = eager, compiled
    worst = [
        max(((b[name] - a[name]).norm() / (a[name].norm() + 1e-6)).item() for name in a)
        for a, b in zip(eager_grads, compiled_grads, strict=True)
    ]
    same = all(a.keys() == b.keys() for a, b in zip(eager_grads, compiled_grads, strict=True))
    return {"eager": losses, "compiled": compiled_losses, "worst_gradient": worst, "same_parameters": same}


def untrained() -> dict[str, float]:
    """The largest reward, value and Q that heads predict which have learned nothing, compiled."""
    feat, action = 50 * torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 3, ACTION)
    reward, critic = RewardHead(8, ACTION, 8), Critic(8, 8, 1)
    q = QEnsemble(8, ACTION, 8, 1, num_q=2, num_bins=11, symlog_limit=10.0, dropout=0.01).eval()
    heads = {
        "reward": lambda: reward(feat, action),
        "critic": lambda: critic(feat),
        "q": lambda: q.two_hot.decode(q(feat[:, 1:], action)),
    }
    found = {}
    for name, head in heads.items():
        compiled = torch.compile(head)
        for word, enabled in (("fp32", False), ("bf16", True)):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled), torch.no_grad():
                found[f"{name} {word}"] = compiled().abs().max().item()
    return found


def one_graph(name: str) -> None:
    """Fails on a Python branch on a tensor, and on a reset, or a row of one, that makes it compile again."""
    posteriors = ("filter", "obs") if "posterior" in config(f"dynamics={name}").dynamics else (None,)
    for posterior in posteriors:
        words = [f"dynamics={name}", *([f"dynamics.posterior={posterior}"] if posterior else [])]
        world = model(*words, observations=STATE)
        world.dynamics.sample = True

        def losses(rows, world=world):
            found = world.losses(rows, world.initial(2))[0]
            return torch.stack(list(found.values())).mean()

        def imagine(state, plan, world=world):
            return world.imagine(state, plan, LENGTH).reward

        watched = torch.compile(losses, fullgraph=True, backend="eager")
        for rows in batches(STATE):
            watched({**rows, "reset": rows["is_first"]}).backward()
        rollout, _, _ = world.observe(with_reset(rows), world.initial(2))
        for start in (world.initial(2), world.dynamics.starts(rollout)):
            plan = torch.zeros(len(start.feat), LENGTH, ACTION)
            torch.compile(imagine, fullgraph=True, backend="eager")(start, plan)
            torch.compiler.reset()


def many_steps(name: str) -> None:
    """Holds values and gradients of the dynamics to the eager ones, over more than a chunk where they are parallel."""
    for subject in subjects():
        if subject.name == name and subject.space in (None, "categorical"):
            contract, dynamics = Learning(), randomize(subject.build())
            dynamics.sample = False
            if subject.posterior == "filter":
                contract.compiled_steps = LENGTH  # loops are unrolled
            contract.test_observing_compiles_to_one_graph_that_equals_eager(dynamics)
            torch.compiler.reset()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    torch.compile = partial(torch.compile, backend=sys.argv[2])  # what the code itself compiles with
    if sys.argv[1] == "untrained":
        json.dump(untrained(), sys.stdout)
        sys.exit()
    torch._dynamo.config.error_on_recompile = True
    one_graph(sys.argv[1])
    many_steps(sys.argv[1])
    torch._dynamo.config.error_on_recompile = False
    json.dump(differences(updates(sys.argv[1], False), updates(sys.argv[1], True)), sys.stdout)
