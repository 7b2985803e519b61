"""Goals in hindsight: frames of the same episode that came later, and of no other."""

from __future__ import annotations

import torch

from planners.learning.hindsight import last_rows, sample_future_rows


def first(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_the_last_row_of_an_episode_is_the_one_before_the_next():
    flags = first([0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0])
    assert last_rows(flags).tolist() == [[1, 1, 4, 4, 4, 5], [5, 5, 5, 5, 5, 5]]


def test_sample_future_rows__draws_every_later_row():
    """Later rows of the episode, up to the farthest, are equally likely; where there is none, the next is drawn."""
    flags = first([0, 0, 1, 0, 0, 0, 0, 1, 0]).expand(4000, -1)
    torch.manual_seed(0)
    for now, expected in ((0, {1}), (2, {3, 4, 5, 6}), (3, {4, 5, 6}), (6, {7}), (7, {8}), (8, {8})):
        drawn = sample_future_rows(flags, torch.full((4000, 1), now), 99)[:, 0]
        assert set(drawn.tolist()) == expected
        share = drawn.bincount(minlength=9)[list(expected)] / 4000
        assert (share - 1 / len(expected)).abs().max() < 0.05
    near = sample_future_rows(flags, torch.full((4000, 1), 2), 2)
    assert set(near[:, 0].tolist()) == {3, 4}


def test_sample_future_rows__counts_rows_behind_the_window():
    """All later rows of the episode are equally likely, those behind stand as row T, and only for its last episode."""
    flags = first([0, 0, 1, 0, 0]).expand(8000, -1)
    later = torch.full((8000, 1), 4)
    torch.manual_seed(0)
    for now, expected in ((0, {1: 1.0}), (2, {3: 1 / 6, 4: 1 / 6, 5: 4 / 6}), (4, {5: 1.0})):
        drawn = sample_future_rows(flags, torch.full((8000, 1), now), 99, later)[:, 0]
        assert set(drawn.tolist()) == set(expected)
        assert all(abs((drawn == row).float().mean() - share) < 0.03 for row, share in expected.items())
    nothing = sample_future_rows(flags, torch.full((8000, 1), 3), 99, torch.zeros(8000, 1, dtype=torch.int64))
    assert set(nothing[:, 0].tolist()) == {4}
