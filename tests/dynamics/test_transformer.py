"""The transformer against attention without any cache in float64 NumPy, and what imagined rows share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attention_reference import transformer
from core_cases import IN, inputs, numpy_weights, stepped
from dynamics_cases import Subject

from dynamics.base import fits
from dynamics.transformer import Transformer
from worldmodels.errors import UserError
from worldmodels.testing.sequences import BATCH, assert_close, observe, randomize, sequences, warm


@torch.no_grad()
@pytest.mark.parametrize("chunk", [None, 1, 5, 8], ids=lambda c: f"chunks-{c}")
def test_the_window_slides_as_if_there_were_no_cache(chunk):
    """60 steps through a ring of 8, filtered one by one, or observed in chunks; resets now and then."""
    core = randomize(Transformer(IN, 12, 2, heads=2, window=8))
    x, reset = inputs(60, share=0.04)
    if chunk is None:
        outputs, _ = stepped(core, x, reset, core.initial(BATCH))
    else:
        memory, parts = core.initial(BATCH), []
        for a, r in zip(x.split(chunk, 1), reset.split(chunk, 1), strict=True):
            part, _, memory = core.scan(a, r, memory)
            parts.append(part)
        outputs = torch.cat(parts, dim=1)
    reference = transformer(2, heads=2, window=8)
    for row in range(BATCH):
        expected = reference(numpy_weights(core), x[row].double().numpy(), reset[row].numpy())
        np.testing.assert_allclose(outputs[row].numpy(), expected, atol=1e-5)


@torch.no_grad()
def test_imagined_rows_lose_what_their_window_has_left_behind():
    """Eight imagined steps from full rings, shared or not: the last no longer sees anything of the past."""
    core = randomize(Transformer(IN, 12, 2, heads=2, window=8))
    memories = [stepped(core, *inputs(20, seed, share=0.0), core.initial(BATCH))[1] for seed in (1, 2)]
    ahead, none = torch.randn(8, BATCH, IN, generator=torch.Generator().manual_seed(0)), None
    outputs = []
    for memory in memories:
        forked, seen = core.fork(memory, 3), []
        for x in ahead:
            ring, memory = core.step(x, none, memory)
            shared, forked = core.step(x.repeat_interleave(3, 0), none, forked)
            assert_close(shared, ring.repeat_interleave(3, 0))
            seen.append(ring)
        outputs.append(seen)
    # A second layer still carries what the first saw: the past is gone once every layer's window has passed it.
    assert not torch.allclose(outputs[0][6], outputs[1][6])
    one = randomize(Transformer(IN, 12, 1, heads=2, window=8))
    memories = [stepped(one, *inputs(20, seed, share=0.0), one.initial(BATCH))[1] for seed in (1, 2)]
    ends = []
    for memory in memories:
        forked = one.fork(memory, 1)
        for x in ahead:
            last, forked = one.step(x, none, forked)
        ends.append(last)
    assert_close(*ends)


@torch.no_grad()
def test_imagining_from_every_posterior_copies_no_keys():
    dynamics = Subject("transformer", "obs").build()
    core = dynamics.core
    data = sequences(40)
    rollout, _ = observe(dynamics, data, dynamics.initial(BATCH))
    state = dynamics.starts(rollout)
    ring = sum(v[0].numel() for key, v in core.initial(1).items() if key != "pos")
    prefix = BATCH * ring * (core.window + 40) // core.window
    held = sum(v.numel() for key, v in state.memory.items() if key.startswith(("shared_k", "shared_v", "own_")))
    assert held == prefix
    after = state
    for _ in range(4):
        after = dynamics.img_step(torch.zeros(BATCH * 40, 2), after)
    for key, value in state.memory.items():
        if key.startswith("shared"):
            assert after.memory[key].data_ptr() == value.data_ptr()
    forked = dynamics.fork(warm(dynamics), 50)
    ringed = {key: value.shape for key, value in core.initial(BATCH).items() if key != "pos"}
    assert {key: forked.memory[f"shared_{key}"].shape for key in ringed} == ringed


def test_what_a_transformer_cannot_do_is_said_in_one_sentence():
    for heads in (5, 4):
        with pytest.raises(UserError) as caught:
            Transformer(IN, 12, 1, heads=heads, window=8)
        assert (caught.value.option, caught.value.value) == ("heads", heads)
    with pytest.raises(UserError) as caught:
        Transformer(IN, 12, 1, heads=2, window=0)
    assert caught.value.option == "window"
    core = Transformer(IN, 12, 1, heads=2, window=8)
    with pytest.raises(UserError, match=r"^a sequence of 9 steps is longer than the transformer's window of 8: .*\.$"):
        core.scan(*inputs(9), core.initial(BATCH))
    x, reset = inputs(1)
    memory = core.fork(core.initial(BATCH), 2)
    with pytest.raises(UserError, match=r"^frames cannot be filtered into imagined states of a transformer: .*\.$"):
        core.step(x[:, 0].repeat_interleave(2, 0), reset[:, 0].repeat_interleave(2), memory)
    with pytest.raises(UserError, match=r"^frames cannot be filtered into imagined states of a transformer: .*\.$"):
        core.scan(*inputs(2), memory)
    assert fits(memory, core.layouts()[1])
    for other in (Transformer(IN, 12, 2, heads=2, window=8), Transformer(IN, 24, 1, heads=2, window=8)):
        assert not any(fits(memory, layout) for layout in other.layouts())
    for _ in range(8):
        _, memory = core.step(x[:, 0].repeat_interleave(2, 0), None, memory)
    with pytest.raises(UserError, match=r"^the transformer cannot imagine more than its window of 8 steps: .*\.$"):
        core.step(x[:, 0].repeat_interleave(2, 0), None, memory)
