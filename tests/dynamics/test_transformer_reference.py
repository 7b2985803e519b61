"""The transformer against attention with rotary matrices in float64 NumPy, and what rotary positions promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attention_reference import as_neighbours, rotation, transformer
from core_cases import build_core
from paper_cases import assert_is

from worldmodels.nets.rotary import apply_rotary, rotary_angles

LAYERS, HEADS = 2, 4
SINGLE = 1e-5
"""In float32, 100 roundings of 6e-8: two blocks, each of four sums over 32 to 128 channels, two norms and a softmax."""


@pytest.mark.parametrize("window", [64, 6], ids=["wider than the sequence", "of half a sequence"])
def test_transformer_is_rotary_attention(window):
    assert_is(build_core("transformer", window=window), transformer(LAYERS, HEADS, window), SINGLE)


def test_rotary__turns_as_the_papers_matrix():
    """Su et al. 2021, eq. 15, with the channels of a pair half a head apart."""
    x = torch.randn(1, 1, 5, 8, generator=torch.Generator().manual_seed(0))
    position = torch.tensor([[0, 1, 2, 50, 10_000]])
    turned = apply_rotary(x, *rotary_angles(position, 8))
    for t, where in enumerate(position[0].tolist()):
        expected = rotation(where, 8) @ as_neighbours(x[0, 0, t].double().numpy())
        np.testing.assert_allclose(as_neighbours(turned[0, 0, t].numpy()), expected, atol=1e-6)


def test_rotary__scores_depend_on_distance_alone():
    """Su et al. 2021, eq. 16: near the start and a thousand steps on."""
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0)).unbind(0)

    def score(now, then):
        (a,), (b,) = ([apply_rotary(x, *rotary_angles(torch.tensor([[at]]), 8))] for x, at in ((q, now), (k, then)))
        return (a * b).sum().item()

    assert score(7, 4) == pytest.approx(score(1007, 1004), abs=1e-5)
    assert score(7, 4) != pytest.approx(score(7, 3), abs=1e-2)
