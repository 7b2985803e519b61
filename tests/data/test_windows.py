"""Windows of any recording, found one by one: hypothesis chooses where episodes begin and what the ring still holds."""

from __future__ import annotations

from unittest.mock import Mock

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.data.replay_buffers import Storage

from worldmodels.data.ledger import Ledger
from worldmodels.data.spans import Spans
from worldmodels.data.windows import WindowSampler

ENVS, STEPS = 2, 8


@st.composite
def rings(draw):
    """What a ring has gone through, as its ledger's five numbers, and the column that says where episodes begin."""
    count = draw(st.integers(0, 3 * STEPS))
    lost = draw(st.integers(0, STEPS - 1)), draw(st.integers(0, count))
    numbers = [count + draw(st.integers(0, 1)), count, draw(st.integers(0, count)), *lost]
    flags = draw(st.lists(st.booleans(), min_size=STEPS * ENVS, max_size=STEPS * ENVS))
    return Ledger(torch.tensor(numbers), STEPS), torch.tensor(flags).reshape(STEPS, ENVS)


@settings(max_examples=50)
@given(ring=rings(), length=st.integers(1, 5), crosses=st.booleans())
def test_every_window_is_found_once_within_its_episode(ring, length, crosses):
    ledger, is_first = ring
    sampler = WindowSampler(Spans(ledger, ENVS, None if crosses else is_first))
    expected = [
        [((start + n) % STEPS, env) for n in range(length)]
        for begin, end in ledger.runs()
        for env in range(ENVS)
        for start in range(begin, end - length + 1)
        if crosses or not any(is_first[(start + n) % STEPS, env] for n in range(1, length))
    ]
    assert sampler.valid_starts(length) == len(expected)
    if not expected:
        return
    time, env = sampler.all_windows(length)
    found = list(zip(time.tolist(), env.tolist(), strict=True))
    assert sorted(found[n : n + length] for n in range(0, len(found), length)) == sorted(expected)
    sampler.slice_len, sampler._rng = length, torch.Generator().manual_seed(0)
    (time, env), _ = sampler.sample(Mock(spec=Storage), 4 * length)
    drawn = list(zip(time.tolist(), env.tolist(), strict=True))
    assert all(drawn[n : n + length] in expected for n in range(0, len(drawn), length))


@settings(max_examples=50)
@given(ring=rings())
def test_episodes_cover_what_is_kept(ring):
    ledger, is_first = ring
    runs = ledger.runs()
    first, env, rows = (part.tolist() for part in Spans(ledger, ENVS, is_first)())
    covered = sorted((e, number) for f, e, n in zip(first, env, rows, strict=True) for number in range(f, f + n))
    assert covered == sorted((e, number) for begin, end in runs for number in range(begin, end) for e in range(ENVS))


@st.composite
def histories(draw):
    """What happens to a ring, one event after another: rows come, by twos at times, or all since a row are undone."""
    flags = st.lists(st.booleans(), min_size=ENVS, max_size=ENVS)
    event = st.one_of(st.lists(flags, min_size=1, max_size=2), st.integers(0, 3 * STEPS))
    return draw(st.lists(event, max_size=60)), draw(st.integers(0, STEPS)), draw(st.integers(0, 40))


@settings(max_examples=100)
@given(history=histories(), crosses=st.booleans())
def test_spans_that_follow_a_ring_are_those_found_anew(history, crosses):
    """In the same order too, which draws depend on."""
    events, lost, when = history
    ledger, is_first = Ledger(torch.zeros(5, dtype=torch.int64), STEPS), torch.zeros(STEPS, ENVS, dtype=torch.bool)
    column = None if crosses else is_first
    spans = Spans(ledger, ENVS, column)
    for number, event in enumerate(events):
        if number == when and lost < STEPS:
            ledger.lose(lost)
        if isinstance(event, int):
            ledger.rewind(min(event, ledger.count))
            spans.forget()
        else:
            for flags in event:
                ledger.begin()
                is_first[ledger.count % STEPS] = torch.tensor(flags)
                ledger.commit()
        found, anew = spans(), Spans(ledger, ENVS, column)()
        assert all(torch.equal(one, other) for one, other in zip(found, anew, strict=True))


class Watched:
    """A column that counts how many of its rows were read."""

    def __init__(self, column: torch.Tensor) -> None:
        self.column, self.shape, self.read = column, column.shape, 0

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        self.read += len(rows)
        return self.column[rows]


def test_no_row_is_looked_at_twice():
    begins = torch.ones(STEPS, ENVS, dtype=torch.bool)
    ledger = Ledger(torch.tensor([5, 5, 0, 0, 0]), STEPS)
    spans = Spans(ledger, ENVS, begins)
    spans.is_first = column = Watched(begins)
    for _ in range(3 * STEPS):
        spans()
        spans()
        ledger.begin()
        ledger.commit()
    assert column.read == 5 + 3 * STEPS - 1
    assert len(spans()[0]) == ENVS * STEPS


def test_newest_rows_come_once_before_any_are_drawn():
    """Side by side from row 1 on, each environment in turn, as soon as they are whole (DreamerV3's online queue)."""
    sampler = WindowSampler(Spans(Ledger(torch.tensor([9, 9, 0, 0, 0]), 20), ENVS))
    sampler.slice_len, sampler._rng, sampler.newest_once = 4, torch.Generator().manual_seed(0), True

    def starts(windows: int) -> list[tuple[int, int]]:
        (time, env), _ = sampler.sample(Mock(spec=Storage), 4 * windows)
        return list(zip(time[::4].tolist(), env[::4].tolist(), strict=True))

    assert starts(3) == [(1, 0), (1, 1), (5, 0)]
    assert starts(2)[0] == (5, 1)
    assert sampler.taken == 4
    for _ in range(4):
        sampler.ledger.begin()
        sampler.ledger.commit()
    assert starts(2) == [(9, 0), (9, 1)]
    starts(5)
    assert sampler.taken == 6


def test_newest_rows_that_are_gone_are_left_out():
    sampler = WindowSampler(Spans(Ledger(torch.tensor([13, 13, 0, 0, 0]), STEPS), ENVS))  # rows 5 to 12 are there
    sampler.slice_len, sampler._rng, sampler.newest_once = 4, torch.Generator().manual_seed(0), True
    (time, env), _ = sampler.sample(Mock(spec=Storage), 8 * 4)
    assert list(zip(time[::4].tolist(), env[::4].tolist(), strict=True))[:4] == [(5, 0), (5, 1), (1, 0), (1, 1)]
