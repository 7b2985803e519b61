"""What scores say: means, intervals, differences and shares, with seeds of training as the unit.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021: what varies from one
training to the next is what a comparison of methods is about, so seeds are resampled. Episodes of one training are no
substitute. Their spread is told beside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap, trim_mean

from worldmodels.errors import UserError

LEAST = 8
"""Numbers below which no interval is told: a bootstrap of fewer covers less than it says."""
RESAMPLED = 2000
"""Bootstrap samples behind an interval."""

Scores = Float[np.ndarray, "_S _N"]
"""Returns of S trainings, or of one policy that nobody trained, on N starts."""
Means = np.ndarray | np.floating
Interval = list[float] | None


def interquartile_mean(values: Float[np.ndarray, "..."], axis: int = -1) -> Float[np.ndarray, "..."]:
    """Return the mean of the middle half, to which a few odd values mean little."""
    return np.asarray(trim_mean(values, 0.25, axis=axis))


def interval(*strata: Float[np.ndarray, " _N"]) -> Interval:
    """Return the 95 % percentile-bootstrap interval of the interquartile mean, None of fewer than 8 numbers.

    Args:
        strata: scores of trainings, those of each task apart: a resample has as many of each.
    """

    def middle(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        return interquartile_mean(np.concatenate(drawn, axis), axis)

    return _resampled(middle, strata, paired=False) if sum(map(len, strata)) >= LEAST else None


def described(scores: Scores, seeds: Sequence[int] | None) -> dict[str, Any]:
    """Describe a row: the mean, each seed's, their interquartile mean and its interval, and the spread of episodes.

    Args:
        scores: returns.
        seeds: those of the trainings; None where nothing was trained.
    """
    means = scores.mean(1)
    return {
        "seeds": None if seeds is None else list(seeds),
        "returns": scores.mean(0).tolist(),
        "by_seed": scores.tolist(),
        "seed_means": means.tolist(),
        "mean": float(means.mean()),
        "iqm": float(interquartile_mean(means)),
        "interval": None if seeds is None else interval(means),
        "std": float(np.sqrt(scores.var(1).mean())),  # pooled: of episodes within a training
    }


def difference(scores: Scores, against: Scores, trained: tuple[bool, bool]) -> dict[str, Any]:
    """Return the mean over starts and seeds of what one row has more than another on the same start.

    The interval is over seeds where each row that was ``trained`` has 8, else over starts.
    """
    _require_same_starts(scores, against)
    rows = (scores, against)
    enough = [len(row) >= LEAST for row, learned in zip(rows, trained, strict=True) if learned]
    found = {"mean": float(scores.mean() - against.mean())}
    if enough and all(enough):  # trainings of two rows have nothing in common, so each row's are drawn for themselves
        drawn = [row.mean(1) for row in rows if len(row) > 1]
        fixed = [None if len(row) > 1 else row.mean() for row in rows]

        def apart(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
            means = iter(sample.mean(axis) for sample in samples)
            first, second = (next(means) if value is None else value for value in fixed)
            return first - second

        return found | {"interval": _resampled(apart, drawn, paired=False), "over": "seeds"}
    each = scores.mean(0) - against.mean(0)
    told = _resampled(np.mean, [each], paired=False) if len(each) >= LEAST else None
    return found | {"interval": told, "over": "starts" if told else None}


def share(scores: Scores, whole: Scores, nothing: Scores, same_trainings: bool = False) -> dict[str, Any] | None:
    """Return which share of the way from ``nothing`` to the ``whole`` the scores go. None where there is no way.

    The interval is over seeds where there are 8, else over starts, of which all three are drawn alike.

    Args:
        scores: returns.
        whole: what is 1.
        nothing: what is 0.
        same_trainings: whether the whole's seeds are the scores' own, and are drawn with them.
    """
    _require_same_starts(scores, whole, nothing)
    way = whole.mean() - nothing.mean()
    if way <= 0:
        return None

    def ratio(some: Means, all_of_it: Means, none: Means) -> np.ndarray:
        length = all_of_it - none
        return np.where(length > 0, some - none, np.nan) / np.where(length > 0, length, 1.0)

    found = {"ratio": float((scores.mean() - nothing.mean()) / way)}
    if len(scores) >= LEAST:
        drawn = [scores.mean(1), *([whole.mean(1)] if same_trainings else [])]

        def by_seed(some: np.ndarray, *rest: np.ndarray, axis: int = -1) -> np.ndarray:
            top = rest[0].mean(axis) if rest else whole.mean()
            return ratio(some.mean(axis), top, nothing.mean())

        return found | {"interval": _resampled(by_seed, drawn, paired=True), "over": "seeds"}
    if scores.shape[1] < LEAST:
        return found | {"interval": None, "over": None}

    def by_start(some: np.ndarray, top: np.ndarray, none: np.ndarray, axis: int = -1) -> np.ndarray:
        return ratio(some.mean(axis), top.mean(axis), none.mean(axis))

    told = _resampled(by_start, [row.mean(0) for row in (scores, whole, nothing)], paired=True)
    return found | {"interval": told, "over": "starts" if told else None}


def best_reached(rows: Mapping[str, Scores]) -> tuple[Scores, list[str]]:
    """Return the best return of anything on each start, and the name of what reached it."""
    _require_same_starts(*rows.values())
    best = {name: scores.max(0) for name, scores in rows.items()}
    names = list(best)
    winners = np.stack([best[name] for name in names]).argmax(0)
    return np.stack([best[name] for name in names]).max(0, keepdims=True), [names[winner] for winner in winners]


def spread(row: Mapping[str, Any], form: str = "{:.1f}") -> str:
    """Say how many trainings are behind a row: each one's score, or from 8 on an interval."""
    if row["seeds"] is None:
        return "none"
    count = len(row["seeds"])
    if row["interval"] is not None:
        middle, low, high = (form.format(value) for value in (row["iqm"], *row["interval"]))
        return f"{count} seeds: IQM {middle} ({low} – {high})"
    if count == 1:
        return "1 seed"
    return f"{count} seeds: {', '.join(map(form.format, row['seed_means']))}"


def _require_same_starts(*rows: Scores) -> None:
    counts = sorted({row.shape[1] for row in rows})
    if len(counts) > 1:
        raise UserError(
            f"rows of {' and '.join(map(str, counts))} evaluation starts cannot be compared start by start: play the "
            "same episodes for all."
        )


def _resampled(statistic: Callable[..., Any], samples: Sequence[np.ndarray], paired: bool) -> Interval:
    """Return a percentile-bootstrap interval, None where a resample has no value."""
    found = bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLED,
        method="percentile",
        paired=paired,
        rng=np.random.default_rng(0),
    )
    bounds = [float(found.confidence_interval.low), float(found.confidence_interval.high)]
    return bounds if np.isfinite(bounds).all() else None
