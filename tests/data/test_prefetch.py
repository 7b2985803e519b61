"""Batches that are read ahead, as for a GPU, are those that would have been drawn, bit for bit."""

from __future__ import annotations

import shutil
from unittest.mock import Mock

import pytest
import torch
from replay_stream import ENVS, SPEC, STEPS, counter, fill, make

from worldmodels.data import prefetch, storage
from worldmodels.data.prefetch import Batches

CHANGES = {"": {}, "episodes": {"cross_resets": False}, "newest": {"newest_once": True}}


def feed(path, monkeypatch, ahead: bool, rows: int = STEPS, **change) -> Batches:
    monkeypatch.setattr(prefetch, "pays", lambda device: ahead)
    return Batches(fill(make(path, **change), rows), 4, 3, later=True)


def learn(batches: Batches, steps: int, start: int = 0) -> list[dict[str, torch.Tensor]]:
    """Batches of updates that rewrite latents; before every third a row comes in."""
    found = []
    for step in range(start, start + steps):
        if step % 3 == 0:
            batches.replay.extend(next(counter(STEPS + step // 3)))
        batch = batches.take()
        found.append(batch)
        if batches.reads_ahead and (step % 3 != 2 or step % 2):  # at times where a row comes in all the same
            batches.read_ahead()
        latents = {"memory.stoch": torch.full((12, 6), float(-step))}
        batches.replay.rewrite(batch["place"].flatten(), latents)
    return found


def same(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> None:
    for mine, yours in zip(one, other, strict=True):
        assert mine.keys() == yours.keys()
        assert [key for key in mine if not torch.equal(mine[key], yours[key])] == []


@pytest.mark.parametrize("change", CHANGES)
def test_batches_are_those_drawn_when_they_are_wanted(tmp_path, monkeypatch, change):
    """With latents that the update before rewrote, and rows that came in before."""
    plain = learn(feed(tmp_path / "a", monkeypatch, False, **CHANGES[change]), 17)
    ahead = feed(tmp_path / "b", monkeypatch, True, **CHANGES[change])
    same(learn(ahead, 17), plain)
    assert (torch.stack([batch["memory.stoch"] for batch in plain]) < 0).any()
    assert ahead._ahead is not None


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("saved", [1, 2, 3, 4])
def test_what_is_saved_knows_nothing_of_a_batch_read_ahead(tmp_path, monkeypatch, change, saved):
    plain = learn(feed(tmp_path / "a", monkeypatch, False, **CHANGES[change]), 9)
    first = feed(tmp_path / "b", monkeypatch, True, **CHANGES[change])
    learn(first, saved)
    first.put_back()
    state = first.replay.state_dict()
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    again = feed(tmp_path / "c", monkeypatch, True, rows=0, **CHANGES[change])
    again.replay.load_state_dict(state)
    same(learn(again, 9 - saved, saved), plain[saved:])
    same(learn(first, 9 - saved, saved), plain[saved:])


def test_what_goes_wrong_ahead_is_told_by_the_batch(tmp_path, monkeypatch):
    batches = feed(tmp_path, monkeypatch, True)
    monkeypatch.setattr(batches.replay, "read_kept", Mock(side_effect=OSError("the disk is gone")))
    batches.read_ahead()
    with pytest.raises(OSError, match="the disk is gone"):
        batches.take()


def test_only_a_gpus_batches_are_pinned_and_read_ahead(tmp_path, monkeypatch):
    """Every column of them. Here no memory can be pinned, so what is asked for is told."""
    replay, asked, gathered = fill(make(tmp_path), STEPS), [], storage.gathered
    monkeypatch.setattr(storage, "gathered", lambda *args: asked.append(args[2]) or gathered(*args[:2], False))
    for device, wanted in (("cpu", False), ("cuda", True), ("mps", False)):
        asked.clear()
        batches = Batches(replay, 4, 3, device=torch.device(device))
        batches.take()
        assert batches.reads_ahead == wanted
        assert asked == [wanted] * len(SPEC)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is pinned for a GPU")
def test_pinned_rows_are_those_of_the_files(tmp_path):
    replay = fill(make(tmp_path), STEPS)
    before = replay.sampler.state_dict()
    pinned = Batches(replay, 4, 3, device=torch.device("cuda")).take()
    assert all(value.is_pinned() for key, value in pinned.items() if key in SPEC)
    replay.sampler.load_state_dict(before)
    same([pinned], [replay.sample(4, 3)])


def test_no_thread_is_started_where_nothing_is_read_ahead(tmp_path):
    batches = Batches(fill(make(tmp_path), ENVS), 2, 2)
    batches.take()
    assert not batches._thread._threads
