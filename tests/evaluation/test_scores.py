"""Means, intervals, differences and shares, held against numbers worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from worldmodels.errors import UserError
from worldmodels.evaluation.scores import LEAST, best_reached, described, difference, interval, share, spread


def draws(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_an_interval_of_seeds_is_that_of_the_binomial():
    """Of eight seeds, one of 4 and seven of 0: by hand.

    The middle half of a resample are its third to sixth. Its mean is 0, 1, 2, 3 or 4 where at least 3, 4, 5 or 6 are of
    the one. At least 3 of 8 are with 1 - sum_{k<3} C(8,k) (1/8)^k (7/8)^(8-k) = 0.067, at least 4 with 0.011, so that
    the quantile at 97.5 % is 1 and that at 2.5 % is 0.
    """
    assert interval(np.array([4.0] + [0.0] * 7)) == [0.0, 1.0]
    assert interval(np.array([4.0] + [0.0] * 6)) is None
    assert interval(np.full(8, 3.0)) == [3.0, 3.0]


def test_strata_are_resampled_each_for_itself():
    """Two tasks of four seeds: a resample has four of each. All alike within a task, so that it cannot differ."""
    assert interval(np.full(4, 0.0), np.full(4, 10.0)) == [5.0, 5.0]
    low, high = interval(np.concatenate([np.full(4, 0.0), np.full(4, 10.0)]))
    assert low < 5.0 < high


def test_a_row_tells_seeds_and_the_spread_of_episodes():
    row = described(np.array([[1.0, 3.0], [10.0, 16.0]]), [0, 5])
    assert row["seed_means"] == [2.0, 13.0]
    assert row["mean"] == 7.5
    assert row["std"] == pytest.approx(((1 + 9) / 2) ** 0.5)  # variances within: 1 and 9
    assert row["interval"] is None
    assert row["returns"] == [5.5, 9.5]
    assert spread(row) == "2 seeds: 2.0, 13.0"
    assert spread(described(draws(0, 1, 30), [0])) == "1 seed"  # thirty episodes are no second training
    assert spread(described(draws(0, 1, 30), None)) == "none"
    many = described(draws(0, LEAST, 3), list(range(LEAST)))
    assert spread(many).startswith("8 seeds: IQM ")
    assert many["interval"][0] < many["iqm"] < many["interval"][1]


def test_differences_are_paired_by_start():
    """Starts that differ by much and rows that differ by 1 on each: the interval has no width."""
    starts = 100 * draws(0, 1, 12)
    found = difference(starts + 1, starts, (True, False))
    assert found["mean"] == pytest.approx(1)
    assert found["interval"] == pytest.approx([1, 1])
    assert found["over"] == "starts"
    assert difference(starts[:, :7] + 1, starts[:, :7], (True, False)) | {"mean": 0} == {
        "mean": 0,
        "interval": None,
        "over": None,
    }


def test_differences_of_enough_seeds_are_over_seeds():
    mine, theirs = draws(1, 9, 3), draws(2, 8, 3) + 5
    found = difference(mine, theirs, (True, True))
    assert found["over"] == "seeds"
    assert found["interval"][0] < found["mean"] < found["interval"][1]
    # By hand: the deviation of a difference of means is the root of the sum of theirs.
    error = (mine.mean(1).var() / 9 + theirs.mean(1).var() / 8) ** 0.5
    assert found["interval"][1] - found["interval"][0] == pytest.approx(2 * 1.96 * error, rel=0.1)
    fixed = difference(mine, theirs[:1], (True, False))  # what nobody trained does not vary
    assert fixed["interval"][1] - fixed["interval"][0] == pytest.approx(2 * 1.96 * mine.mean(1).std() / 3, rel=0.1)
    assert difference(mine, theirs[:7], (True, True))["over"] is None  # three starts, and seven seeds of one row
    turned = difference(theirs[:1], mine, (False, True))
    assert turned["mean"] == pytest.approx(-fixed["mean"])


@pytest.mark.parametrize("seeds", [1, 8])
def test_a_share_has_the_ends_0_and_1(seeds):
    nothing, whole = draws(3, 1, 10), draws(4, 1, 10) + 20
    low, high = (np.repeat(row, seeds, 0) for row in (nothing, whole))
    assert share(high, whole, nothing)["ratio"] == pytest.approx(1)
    assert share(high, whole, nothing)["interval"] == pytest.approx([1, 1])
    assert share(low, whole, nothing)["ratio"] == pytest.approx(0)
    half = share((low + high) / 2, whole, nothing)
    assert half["interval"] == pytest.approx([0.5, 0.5])
    assert half["over"] == ("seeds" if seeds == 8 else "starts")
    assert share(low, nothing, whole) is None
    few = share(low[:4, :5], whole[:, :5], nothing[:, :5])
    assert few["interval"] is None


def test_a_share_of_the_same_seeds_draws_both_together():
    nothing, top = np.zeros((1, 4)), draws(5, 8, 4) + 30
    assert share(top / 2, top, nothing, same_trainings=True)["interval"] == pytest.approx([0.5, 0.5])
    low, high = share(top / 2, top, nothing)["interval"]
    assert low < 0.5 < high


def test_the_best_is_that_of_any_seed_on_each_start():
    best, by = best_reached({"a": np.array([[1.0, 5.0], [3.0, 0.0]]), "b": np.array([[2.0, 6.0]])})
    assert best.tolist() == [[3.0, 6.0]]
    assert by == ["a", "b"]


def test_rows_of_other_starts_are_refused():
    rows = draws(0, 1, 3), draws(0, 1, 4), draws(0, 1, 4)
    for call in (lambda: difference(*rows[:2], (True, True)), lambda: share(*rows)):
        with pytest.raises(UserError, match="3 and 4 evaluation starts"):
            call()
    with pytest.raises(UserError, match="3 and 4 evaluation starts"):
        best_reached(dict(zip("ab", rows, strict=False)))


def test_no_interval_is_told_of_fewer_than_eight():
    for seeds, starts in itertools.product((1, 7), repeat=2):
        scores = draws(0, seeds, starts)
        found = [difference(scores, 0 * scores, (True, True)), share(scores + 9, scores + 10, scores[:1] - 9)]
        assert described(scores, list(range(seeds)))["interval"] is None
        assert [one["interval"] for one in found] == [None, None]
