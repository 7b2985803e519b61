"""Means over what counts: a plain mean over all rows is the mean over the valid ones."""

from __future__ import annotations

import pytest
import torch

from worldmodels.common.batch import mean_over, mean_weights

LOSS = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
VALID = torch.tensor([[True, False, True], [False, False, True]])


def test_a_plain_mean_becomes_the_mean_over_what_is_counted():
    expected = LOSS[VALID].mean()
    torch.testing.assert_close(mean_over(LOSS * VALID, VALID).mean(), expected)
    torch.testing.assert_close((LOSS * mean_weights(VALID)).mean(), expected)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_weights_may_be_any_numbers(scale):
    weights = scale * torch.tensor([[1.0, 0.0, 2.0], [0.5, 0.0, 3.0]])
    torch.testing.assert_close(mean_over(LOSS * weights, weights).mean(), (LOSS * weights).sum() / weights.sum())


def test_where_nothing_is_valid_the_mean_is_zero():
    nothing = torch.zeros_like(VALID)
    assert torch.equal(mean_over(LOSS * nothing, nothing), torch.zeros_like(LOSS))
    assert torch.equal(mean_weights(nothing), torch.zeros_like(LOSS))
