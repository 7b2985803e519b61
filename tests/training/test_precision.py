"""bf16 and compilation: what must stay fp32 does, and compiled updates are the eager ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest
import torch
from dynamics_cases import subjects
from model_cases import ACTION, batch, model, with_reset
from places import SUPPORT
from planner_cases import PLANNERS

from dynamics.gru import GRU
from worldmodels.common.precision import context, lightning_precision
from worldmodels.errors import UserError
from worldmodels.model import Trajectory

COMPILED = ("learns", "denoises", "clones", "goals")  # what is guided learns what its learner does
LEARNERS = [*(name for name, kind in PLANNERS.items() if kind in COMPILED), "tdmpc", "actor_critic gradient=dynamics"]
KINDS = ["actor_critic", "tdmpc", "cloning", "diffusion", "cfgrl_goals"]
ALIKE = [name for name in LEARNERS if name not in KINDS]  # what these learn is learned by one of the others too
BACKBONES = sorted({subject.name for subject in subjects()})
CPU = torch.device("cpu")
bf16 = context("bf16", CPU)


# bf16


def test_precision_is_one_of_two_words():
    assert (lightning_precision("fp32"), lightning_precision("bf16")) == ("32-true", "bf16-mixed")
    assert context("fp32", CPU) is nullcontext
    with bf16():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with pytest.raises(UserError, match=r"bf61 must be one of fp32, bf16\. Did you mean 'bf16'"):
        context("bf61", CPU)


def test_losses_and_decoded_values_are_fp32_under_autocast():
    world, rows = model(), with_reset(batch())
    with bf16():
        losses, rollout = world.losses(rows, world.initial(2))
        decoded = world.decode(rollout.feat)
        trajectory = world.imagine(world.dynamics.starts(rollout), torch.zeros(10, 3, ACTION), 3)
        value = trajectory.discounted_return(0.997)
    carried = [
        *(x for x in (*rollout.memory.values(), *rollout.before.values()) if x.is_floating_point()),
        rollout.feat,
        rollout.post,
        *rollout.stats.values(),
    ]
    read = [trajectory.feat, trajectory.reward, trajectory.cont, value, *decoded.values(), *losses.values()]
    assert all(x.dtype == torch.float32 for x in carried + read)
    assert not torch.equal(rollout.memory["deter"], rollout.memory["deter"].bfloat16().float())


def test_losses_in_bf16_are_near_those_in_fp32():
    world, rows = model(), with_reset(batch())
    exact = world.losses(rows, world.initial(2))[0]
    with bf16():
        rough = world.losses(rows, world.initial(2))[0]
    for name, loss in exact.items():
        torch.testing.assert_close(rough[name].mean(), loss.mean(), rtol=0.05, atol=0.02)
        assert not torch.equal(rough[name], loss), name


@torch.no_grad()
def test_small_steps_of_the_memory_add_up_under_autocast():
    """A gate that is nearly closed moves the memory by less than bf16 resolves; after 400 steps it must have moved."""
    core = GRU(3, 8, 4, 2)
    for parameter in core.parameters():
        parameter.zero_()
    bias = core.gates.bias.view(2, 3, 4)
    bias[:, 0], bias[:, 1], bias[:, 2] = 9.0, 9.0, -6.0  # reset open, candidate 1, update sigmoid(-7) = 0.0009
    memory = {"deter": torch.full((1, 8), 0.5)}
    with bf16():
        for _ in range(400):
            output, memory = core.step(torch.zeros(1, 3), torch.zeros(1, dtype=torch.bool), memory)
    update = 1 / (1 + np.exp(7.0))
    assert output.numpy() == pytest.approx(1 - 0.5 * (1 - update) ** 400, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_discounts_are_not_rounded(dtype):
    """Whatever a model computes in; 0.99609375 is exact in bf16, its powers and 0.997 are not."""
    n, h, going_on = 1, 300, 0.99609375
    reward, cont = torch.ones(n, h, dtype=dtype), torch.full((n, h), going_on, dtype=dtype)
    value = Trajectory(torch.zeros(n, h + 1, 1), torch.zeros(n, h, 1), reward, cont).discounted_return(0.997)
    assert value.dtype == torch.float32
    ratio = 0.997 * going_on
    assert value.item() == pytest.approx((1 - ratio**h) / (1 - ratio), rel=1e-5)


# Compilation


@cache
def compiled(name: str, script: str = "compiled_updates.py", backend: str = "inductor") -> dict:
    """What the script found: it raises where the model is not one graph for every pattern of resets."""
    script = SUPPORT / script
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, script, name, backend],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def slow(name: str, backend: str) -> bool:
    """Whether a pair costs more than it tells: S4D and Koopman scan as S5 does, with other factors."""
    return backend == "inductor" or name in ("s4d", "koopman")


COMPILERS = [
    pytest.param(name, backend, marks=[pytest.mark.slow] if slow(name, backend) else [])
    for name in BACKBONES
    for backend in ("inductor", "aot_eager")
]
"""What a compiler is handed. The compiler itself with ``--all``, and for what is zero before training (below)."""


@pytest.mark.process
@pytest.mark.parametrize(("name", "backend"), COMPILERS)
def test_compiled_updates_are_the_eager_ones(name, backend):
    updates = compiled(name, backend=backend)
    assert len(updates["eager"]) == 3
    assert updates["same_parameters"]
    assert len(set(updates["eager"])) == 3
    assert updates["compiled"] == pytest.approx(updates["eager"], rel=1e-5)
    assert max(updates["worst_gradient"]) < 1e-4


@pytest.mark.process
@pytest.mark.parametrize("names", [KINDS, pytest.param(ALIKE, marks=pytest.mark.slow)], ids=";".join)
def test_what_planners_learn_is_one_graph_whatever_is_drawn(names):
    """Several in a process, whose imports take longer than tracing one."""
    updates = compiled(";".join(names), "compiled_planners.py")
    assert list(updates) == names
    for name, found in updates.items():
        assert len(found["eager"]) == 4, name
        assert found["same_parameters"], name
        assert max(found["worst_gradient"]) < 1e-3, name
        for eager, traced in zip(found["eager"], found["compiled"], strict=True):
            assert traced == pytest.approx(eager, rel=1e-4, abs=1e-6), name


PRESETS = ("default", "dreamerv3", "dreamerv3_state", "tdmpc2", "tdmpc2_pixels")
SEARCHES = ("default", *(f"planner={name}" for name in ("cem", "tdmpc", "mppi_actor_critic", "cem_actor_critic")))
"""What is left out ascends a gradient within the plan, or lets the host decide what to sample."""


@pytest.mark.process
@pytest.mark.parametrize(
    ("names", "what"),
    [
        pytest.param(PRESETS, "losses", id="losses"),
        pytest.param((*SEARCHES, "planner=actor_critic"), "plan", marks=pytest.mark.slow, id="plans"),
    ],
)
def test_presets_and_searches_are_one_graph(names, what):
    found = compiled(";".join(names), "compiled_presets.py", what)
    assert list(found) == list(names)
    assert all(difference < 1e-5 for parts in found.values() for difference in parts.values()), found


@pytest.mark.process
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("head", ["reward", "critic", "q"])
def test_what_is_compiled_is_zero_before_training(head, precision):
    assert compiled("untrained")[f"{head} {precision}"] == 0
