"""Resets and cuts wherever they fall: hypothesis chooses the patterns, every backbone keeps to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dynamics_cases import Subject, subjects
from hypothesis import given
from hypothesis import strategies as st

from worldmodels.testing.sequences import (
    BATCH,
    Sequences,
    assert_close,
    assert_same_state,
    observe,
    randomize,
    sequences,
    warm,
)

pytestmark = [pytest.mark.contract, pytest.mark.heavy]

BACKBONES = {(subject.name, subject.posterior): subject for subject in reversed(subjects())}.values()
"""Each with each posterior, in one latent space."""
PATTERNS = st.integers(2, 12).flatmap(
    lambda length: st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=BATCH, max_size=BATCH)
)


def built(subject: Subject):
    dynamics = randomize(subject.build())
    dynamics.sample = False
    return dynamics


def with_resets(pattern: list[list[bool]]) -> Sequences:
    return replace(sequences(len(pattern[0]), seed=2), reset=torch.tensor(pattern))


@torch.no_grad()
@pytest.mark.parametrize("subject", BACKBONES, ids=str)
@given(pattern=PATTERNS, data=st.data())
def test_two_pieces_are_the_whole(subject, pattern, data):
    dynamics, frames = built(subject), with_resets(pattern)
    state, cut = warm(dynamics), data.draw(st.integers(1, len(pattern[0]) - 1), label="cut")
    whole, end = observe(dynamics, frames, state)
    first, middle = observe(dynamics, frames[:, :cut], state)
    second, last = observe(dynamics, frames[:, cut:], middle)
    assert_close(torch.cat([first.post, second.post], dim=1), whole.post)
    assert_same_state(dynamics, last, end)


@torch.no_grad()
@pytest.mark.parametrize("subject", BACKBONES, ids=str)
@given(pattern=PATTERNS)
def test_what_lies_before_a_reset_changes_nothing_after_it(subject, pattern):
    dynamics, frames, other = built(subject), with_resets(pattern), with_resets(pattern).clone()
    last = [max((t for t, reset in enumerate(row) if reset), default=None) for row in pattern]
    for row, begin in enumerate(last):
        if begin is not None:
            other.embed[row, :begin] += 1.0
            other.action[row, :begin] *= -1.0
    rollout, _ = observe(dynamics, frames, warm(dynamics))
    changed, _ = observe(dynamics, other, warm(dynamics, seed=10))
    for row, begin in enumerate(last):
        if begin is not None:
            assert_close(changed.post[row, begin:], rollout.post[row, begin:])
