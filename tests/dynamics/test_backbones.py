"""What every core keeps beyond the contract, and what implicit latents do."""

from __future__ import annotations

import pytest
import torch
from core_cases import CORES, IN, build_core, inputs, stepped
from torch.utils.flop_counter import FlopCounterMode

from dynamics.implicit import Implicit
from worldmodels.errors import UserError
from worldmodels.testing.sequences import BATCH, assert_close, imagined, observe, randomize, sequences


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_a_step_costs_the_same_however_old_the_memory(name):
    core, costs, memory = build_core(name), [], None
    x, reset = inputs(1, share=0.0)
    memory = core.initial(BATCH)
    for _ in range(200):
        sizes = {key: value.shape for key, value in memory.items()}
        with FlopCounterMode(display=False) as counter:
            _, memory = core.step(x[:, 0], reset[:, 0], memory)
        costs.append((counter.get_total_flops(), sizes))
    assert costs[0][0] > 0
    assert all(cost == costs[0] for cost in costs)


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_all_starts_of_a_long_sequence_are_the_filtered_memories(name):
    core = build_core(name)
    x, reset = inputs(50, seed=3)
    before = stepped(core, *inputs(9, seed=1), core.initial(BATCH))[1]
    _, entries, _ = core.scan(x, reset, before)
    memory, expected = before, []
    later = torch.randn(BATCH, IN, generator=torch.Generator().manual_seed(7))
    for t in range(50):
        _, memory = core.step(x[:, t], reset[:, t], memory)
        expected.append(core.step(later, None, memory)[0])
    expected = torch.stack(expected, dim=1)
    for last in (1, 7, 50):
        starts = core.starts(entries, reset, before, last)
        found = core.step(later.repeat_interleave(last, 0), None, starts)[0]
        assert_close(found.unflatten(0, (BATCH, last)), expected[:, -last:])


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_starts_are_not_rounded_in_bf16(name):
    core = build_core(name)
    x, reset = inputs(70, seed=3)
    before = core.initial(BATCH)
    entries = core.scan(x[:, :64], reset[:, :64], before)[1]
    exact = core.starts(entries, reset[:, :64], before, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = core.starts(entries, reset[:, :64], before, 2)
    assert all(torch.equal(found[key], value) for key, value in exact.items())


# Implicit


def test_consistency__weighs_steps_and_stops_at_targets():
    """Predictions weigh less with each step since their grounding, and their targets get no gradient."""
    dynamics = randomize(Implicit(7, 2, latent=16, hidden=8, simplex=4, unroll=2, rho=0.5))
    data = sequences(6, share=0.0)
    data.reset[1, 4] = True
    rollout, _ = observe(dynamics, data, dynamics.initial(BATCH))
    loss = dynamics.loss(rollout, data.reset)["consistency"]
    age = torch.tensor([0, 1, 2, 0, 1, 2]).repeat(BATCH, 1)
    age[1, 4:] = torch.tensor([0, 1])
    error = (rollout.feat - rollout.post).square().mean(-1)
    expected = error * torch.tensor([0.0, 1.0, 0.5])[age]
    torch.testing.assert_close(loss.mean(), expected.sum() / (age > 0).sum())
    assert torch.equal(loss == 0, age == 0)
    # Row 0, step 2 is predicted from the frame of step 0: no other frame may learn from it.
    embed = data.embed.clone().requires_grad_()
    rollout, _ = dynamics.observe(embed, data.action, data.reset, dynamics.initial(BATCH))
    dynamics.loss(rollout, data.reset)["consistency"][0, 2].backward()
    assert embed.grad.abs().amax(-1).nonzero().tolist() == [[0, 0]]


@torch.no_grad()
def test_implicit__latents_are_simplices_in_open_loop():
    """Between groundings the observed latents are those of imagined steps, and every group of one sums to 1."""
    dynamics = randomize(Implicit(7, 2, latent=16, hidden=8, simplex=4, unroll=3))
    data = sequences(8, share=0.0)
    rollout, _ = observe(dynamics, data, dynamics.initial(BATCH))
    torch.testing.assert_close(rollout.feat.unflatten(-1, (4, 4)).sum(-1), torch.ones(BATCH, 8, 4))
    state = dynamics.obs_step(*data.frame(0), dynamics.initial(BATCH))
    for t in range(1, 4):
        state = dynamics.img_step(data.action[:, t], state)
        assert_close(rollout.feat[:, t], state.feat)
    assert_close(rollout.feat[:, 4], rollout.post[:, 4])
    assert imagined(dynamics, state).shape == (BATCH, 4, 16)


def test_an_implicit_latent_says_what_does_not_fit():
    with pytest.raises(UserError) as caught:
        Implicit(7, 2, latent=10, hidden=8, simplex=4)
    assert (caught.value.option, caught.value.value) == ("simplex", 4)
    with pytest.raises(UserError) as caught:
        Implicit(7, 2, latent=8, hidden=8, unroll=0)
    assert (caught.value.option, caught.value.value) == ("unroll", 0)
