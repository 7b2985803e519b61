"""Replay: alignment, uniform windows in a wrapped ring, and what precedes a window."""

from __future__ import annotations

from math import prod

import pytest
import torch
from refusals import refuses
from replay_stream import (
    ENVS,
    EPISODE,
    SPEC,
    STEPS,
    assert_unbroken,
    assert_uniform,
    counter,
    draw,
    fill,
    make,
    valid_starts,
)

from worldmodels.common.batch import context_rows, split_context
from worldmodels.data.replay import Replay
from worldmodels.data.storage import ReplayLayout
from worldmodels.errors import UserError


@pytest.mark.parametrize("rows", [STEPS - 3, 3 * STEPS + 17])
def test_actions_and_rewards_belong_to_the_row_they_led_to(tmp_path, rows):
    batch = draw(fill(make(tmp_path), rows), length=6)
    first = batch["is_first"]
    episode, step, action, reward = batch["state"].unbind(-1)
    assert torch.equal(batch["action"][..., 0], action)
    assert torch.equal(batch["reward"], reward)
    assert (batch["action"][first] == 0).all()
    assert (batch["reward"][first] == 0).all()
    # Chosen at the row before, the episode's first row included: its action is the easily lost one.
    inside = ~first[:, 1:]
    chosen = 1.0 + batch["env"] + 10.0 * batch["tick"]
    assert torch.equal(action[:, 1:][inside], chosen[:, :-1][inside])
    assert (step[:, 1:][inside] == step[:, :-1][inside] + 1).all()
    assert (episode.diff(dim=1) == first[:, 1:]).all()
    assert (batch["action"][step == 1] != 0).all()
    assert torch.equal(first[:, 1:], batch["is_last"][:, :-1])
    assert torch.equal(batch["is_terminal"], batch["is_last"] & (episode % 2 == 0))


def test_a_sample_holds_the_stored_keys_as_they_are(tmp_path):
    batch = fill(make(tmp_path), STEPS).sample(4, 7)
    place = {"place": ((), torch.int64)}  # where a latent lies that may be rewritten
    assert {key: (value.shape[2:], value.dtype) for key, value in batch.items()} == SPEC | place
    assert all(value.shape[:2] == (4, 7) and value.is_contiguous() for value in batch.values())
    seen = (batch["tick"] + 31 * batch["env"]) % 256
    assert torch.equal(batch["pixels"], seen.to(torch.uint8)[..., None, None, None].expand(4, 7, 3, 4, 4))


@pytest.mark.parametrize(("before", "rows"), [(0, 7), (STEPS - 2, 5), (STEPS + 3, STEPS), (5, 2 * STEPS + 9), (3, 0)])
def test_rows_that_come_in_a_block_are_stored_as_one_by_one(tmp_path, before, rows):
    """Across the ring's end too, and more of them than it holds; and files hold the same bytes."""
    one, block = fill(make(tmp_path / "one"), before + rows), fill(make(tmp_path / "block"), before)
    stream = [next(steps) for steps in [counter(before)] for _ in range(rows)] or [next(counter(before))]
    block.extend_block({key: torch.stack([step[key] for step in stream])[:rows] for key in SPEC})
    for file in one.directory.iterdir():
        assert file.read_bytes() == (block.directory / file.name).read_bytes(), file.name
    assert_unbroken(draw(block, 3))
    assert block.episode_spans() == one.episode_spans()


def test_changing_a_batch_changes_nothing_stored(tmp_path):
    replay = fill(make(tmp_path), STEPS)
    state = replay.state_dict()
    before = replay.sample(8, 5)
    kept = {key: value.clone() for key, value in before.items()}
    split_context(before, 2)
    assert all(torch.equal(before[key], kept[key]) for key in kept)
    for value in before.values():
        value.zero_()
    replay.load_state_dict(state)
    after = replay.sample(8, 5)
    assert all(torch.equal(after[key], kept[key]) for key in kept)


@pytest.mark.parametrize("cross_resets", [True, False])
@pytest.mark.parametrize("rows", [STEPS // 2, STEPS, STEPS + 1, 3 * STEPS + 17])
def test_starts_are_uniform_over_the_valid_ones(tmp_path, rows, cross_resets):
    replay = fill(make(tmp_path, cross_resets=cross_resets), rows)
    batch = draw(replay, length=4)
    assert_unbroken(batch)
    assert_uniform(batch, valid_starts(range(max(0, rows - STEPS), rows), 4, cross_resets))
    assert batch["is_first"][:, 1:].any() == cross_resets
    assert len(replay) == min(rows, STEPS) * ENVS


def test_sampling_follows_every_new_row(tmp_path):
    replay, stream = make(tmp_path, cross_resets=False), counter()
    for rows in range(1, 2 * STEPS):
        replay.extend(next(stream))
        if replay.can_sample(5):
            batch = replay.sample(16, 5)
            assert_unbroken(batch)
            assert rows - STEPS <= batch["tick"].min()
            assert batch["tick"].max() < rows


@pytest.mark.parametrize("rows", [STEPS // 2, STEPS + 9])
def test_an_episode_is_read_from_a_row_on_as_far_as_it_goes(tmp_path, rows):
    replay = make(tmp_path)
    assert replay.last_row == -1
    fill(replay, rows)
    assert replay.last_row == rows - 1
    for number in range(rows):
        for env, length in enumerate(EPISODE):
            found = replay.episode_from(number, 4, env)
            kept = number >= rows - STEPS
            expected = min(4, rows - number, length - number % length) if kept else 0
            assert found["tick"].tolist() == list(range(number, number + expected))
            assert (found["env"] == env).all()
    assert len(replay.episode_from(rows, 4, 0)["tick"]) == 0


@pytest.mark.parametrize("rows", [STEPS // 2, STEPS, STEPS + 17])
@pytest.mark.parametrize("ahead", [2, 1024])
def test_a_later_row_is_drawn_from_the_rest_of_the_episode(tmp_path, monkeypatch, rows, ahead):
    """Each of those behind a window alike, on a ring that has wrapped too; none is told of where it ends there."""
    monkeypatch.setattr("worldmodels.data.windows.LOOK_AHEAD", ahead)
    replay = fill(make(tmp_path), rows)
    batch = replay.sample(3000, 3, later=True)
    assert batch["later_state"].shape == (3000, 1, 4)
    last, env = batch["tick"][:, -1], batch["env"][:, -1]
    episode, step = last // torch.tensor(EPISODE)[env], last % torch.tensor(EPISODE)[env]
    left = torch.minimum(torch.tensor(EPISODE)[env] - 1 - step, rows - 1 - last)
    assert torch.equal(batch["later_rows"][:, 0], left)
    assert torch.equal(batch["later_state"][:, 0, 0].long(), episode)
    ahead = batch["later_state"][:, 0, 1].long() - step
    assert torch.equal(ahead == 0, left == 0)
    assert (ahead <= left).all()
    far = ahead[left == 4]
    assert (far.bincount(minlength=5)[1:] / len(far) - 0.25).abs().max() < 0.12
    _, window = split_context(batch, 1)
    assert window["later_state"].shape == (3000, 1, 4)
    assert window["state"].shape == (3000, 2, 4)


def test_later_rows_change_no_window_that_is_drawn_without(tmp_path):
    one, other = (fill(make(tmp_path / name), STEPS) for name in ("a", "b"))
    assert torch.equal(one.sample(4, 3)["tick"], other.sample(4, 3, later=True)["tick"])


def test_no_valid_start_is_a_clear_error(tmp_path):
    replay = make(tmp_path)
    assert not replay.can_sample(1)
    with pytest.raises(UserError, match=r"no window of 6 steps.*has 0"):
        replay.sample(2, 6)
    fill(replay, 5)
    assert replay.can_sample(5)
    assert not replay.can_sample(6)
    with pytest.raises(UserError, match="longest stretch has 5"):
        replay.sample(2, 6)
    within = fill(make(tmp_path / "within", cross_resets=False), 3 * STEPS)
    assert within.can_sample(max(EPISODE))
    assert (within.sample(9, max(EPISODE))["env"] == 2).all()
    with pytest.raises(UserError, match=r"longest episode .* has 11"):
        within.sample(2, max(EPISODE) + 1)


def test_capacity_is_rounded_up_to_whole_steps(tmp_path):
    replay = fill(make(tmp_path, capacity=3 * 10 + 1), 30)
    assert len(replay) == 33


def test_rows_that_do_not_fit_are_refused(tmp_path):
    row = next(counter())
    with pytest.raises(ValueError, match="reward must be"):
        make(tmp_path).extend(row | {"reward": row["reward"].double()})


def test_the_space_of_all_rows_is_really_reserved(tmp_path):
    replay = make(tmp_path, capacity=3000)
    files = {path.stem: path.stat() for path in replay.directory.glob("*.memmap") if path.stem != "ledger"}
    assert sum(stat.st_size for stat in files.values()) == sum(replay.layout.column_bytes().values())
    assert all(stat.st_blocks * 512 >= stat.st_size for stat in files.values())
    assert replay.layout.describe() == "replay: 3,000 rows of 3 environments, 0.00 GiB at most (pixels 40 %)"


# Contexts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("context", "burn_in", "rows"), [("none", 0, 0), ("burn_in", 3, 3), ("latent", 9, 1)])
def test_a_windows_first_step_is_a_reset_only_without_context(tmp_path, context, burn_in, rows):
    prefix = context_rows(context, burn_in)
    assert prefix == rows
    batch = fill(make(tmp_path), STEPS).sample(50, prefix + 6)
    front, window = split_context(batch, prefix)
    assert window["reset"].shape == (50, 6)
    assert torch.equal(window["is_first"], batch["is_first"][:, prefix:])
    assert not window["is_first"][:, 0].all()
    assert torch.equal(window["reset"][:, 1:], window["is_first"][:, 1:])
    if prefix:
        assert torch.equal(window["reset"][:, 0], window["is_first"][:, 0])
        assert front["reset"][:, 0].all()
        assert torch.equal(front["reset"][:, 1:], front["is_first"][:, 1:])
        assert torch.equal(front["tick"][:, -1] + 1, window["tick"][:, 0])
        # The row in front holds the memory of the very step before the window.
        memory = (front["tick"] + front["env"]).float()[..., None].expand(50, prefix, 6)
        assert torch.equal(front["memory.stoch"], memory)
    else:
        assert front is None
        assert window["reset"][:, 0].all()


def test_contexts_that_do_not_exist():
    with refuses("context", "burnin"):
        context_rows("burnin", 3)
    with refuses("burn_in", 0):
        context_rows("burn_in", 0)


@pytest.mark.parametrize("rows", [STEPS - 3, STEPS, STEPS + 5])
def test_trim__gives_back_the_space_that_is_not_needed(tmp_path, rows):
    """A recording that is over holds the same windows after trimming, in files no longer than its rows."""
    replay = fill(make(tmp_path), rows)
    before, count = replay.all_windows(5), len(replay)
    replay.trim()
    again = Replay.open(replay.directory)
    assert len(again) == count
    assert all(torch.equal(value, before[key]) for key, value in again.all_windows(5).items())
    kept = min(rows, STEPS) * ENVS
    for key, (shape, dtype) in SPEC.items():
        assert (replay.directory / f"{key}.memmap").stat().st_size == kept * prod(shape) * dtype.itemsize


def test_trim__may_be_killed_before_the_layout_is_saved(tmp_path, monkeypatch):
    """A recording whose trimming was killed is read all the same."""
    replay = fill(make(tmp_path), STEPS - 3)
    before = replay.all_windows(5)
    monkeypatch.setattr(ReplayLayout, "save", lambda *_: None)
    replay.trim()
    again = Replay.open(replay.directory).all_windows(5)
    assert all(torch.equal(value, before[key]) for key, value in again.items())


@pytest.mark.parametrize("rows", [STEPS // 2, STEPS + 17])
def test_newest_episodes_begin_with_their_first_row(tmp_path, rows):
    replay = fill(make(tmp_path), rows)
    found = replay.newest_episodes(4, 6)  # longer than those of the first environment
    assert found["is_first"][:, 0].all()
    assert not found["is_first"][:, 1:].any()
    assert found["tick"].shape == (4, 6)
    assert (found["tick"].diff(dim=1) == 1).all()
    assert (found["env"] == found["env"][:, :1]).all()
    assert set(found["env"][:, 0].tolist()) <= {1, 2}
    assert replay.newest_episodes(4, 12) is None


@pytest.mark.parametrize("rows", [STEPS // 2, STEPS + 17])
def test_rewards_are_those_of_the_rows_that_are_kept(tmp_path, rows):
    replay = fill(make(tmp_path), rows)
    assert len(replay.column("reward")) == len(replay)
    assert replay.column("reward").max() == (0.5 + EPISODE[2] - 1 if rows > EPISODE[2] else 0.5 + rows - 1)


@pytest.mark.parametrize("rows", [STEPS - 5, 2 * STEPS + 9])
def test_latents_are_rewritten_in_the_rows_they_came_from(tmp_path, rows):
    """And in no other, on a ring that has wrapped too. The first of two values of a row counts."""
    replay = fill(make(tmp_path), rows)
    batch = replay.sample(5, 4)
    assert torch.equal(batch["place"], batch["tick"] * ENVS + batch["env"])
    place, new = batch["place"].flatten(), torch.arange(20.0)[:, None].expand(20, 6) + 1000
    replay.rewrite(torch.cat([place, place]), {"memory.stoch": torch.cat([new, -new])})
    expected = {}
    for row, value in zip(place.tolist(), new, strict=True):
        expected.setdefault(row, value)
    everything = replay.all_windows(1)
    for found, tick, env in zip(*(everything[key][:, 0] for key in ("memory.stoch", "tick", "env")), strict=True):
        assert torch.equal(found, expected.get(int(tick * ENVS + env), (tick + env).float().expand(6)))


def test_latents_of_rows_that_are_gone_are_not_written(tmp_path):
    replay = fill(make(tmp_path), STEPS)
    place = replay.sample(5, 4)["place"].flatten()
    fill(replay, STEPS, start=STEPS)
    replay.rewrite(place, {"memory.stoch": torch.full((20, 6), -1.0)})
    assert (replay.all_windows(1)["memory.stoch"] >= 0).all()
    with pytest.raises(ValueError, match=r"latents are \['memory\.stoch'\]"):
        replay.rewrite(place, {})
