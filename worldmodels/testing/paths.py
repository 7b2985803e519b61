"""One model, several ways to compute it: observing, filtering, starting, forking and selecting must agree."""

from __future__ import annotations

import pytest
import torch

from dynamics.base import State
from worldmodels.errors import UserError
from worldmodels.testing.sequences import (
    ACTION,
    BATCH,
    LONG,
    assert_close,
    assert_same_state,
    filtered,
    imagined,
    observe,
    sequences,
    warm,
)


class Paths:
    """Whatever computes a state, it is the same state."""

    thorough: bool = True
    """False: fewer lengths, for the tenth variant of a backbone."""

    @torch.no_grad()
    def test_observing_equals_filtering_at_every_length(self, dynamics):
        lengths = range(1, LONG + 1) if self.thorough else (1, 2, 3, 8, 17, LONG)
        data, state = sequences(LONG), warm(dynamics)
        states = filtered(dynamics, data, state)
        feats = torch.stack([state.feat for state in states], dim=1)
        for length in lengths:
            rollout, last = observe(dynamics, data[:, :length], state)
            assert_close(rollout.post, feats[:, :length])
            assert_same_state(dynamics, last, states[length - 1])

    @torch.no_grad()
    def test_a_sequence_can_be_split_anywhere(self, dynamics):
        data, state = sequences(9, seed=2), warm(dynamics)
        whole, end = observe(dynamics, data, state)
        for cut in range(1, 9):
            first, middle = observe(dynamics, data[:, :cut], state)
            second, last = observe(dynamics, data[:, cut:], middle)
            assert_close(torch.cat([first.post, second.post], dim=1), whole.post)
            assert_same_state(dynamics, last, end)

    def test_starts_are_the_filtered_states_detached_and_row_by_row(self, dynamics):
        data, state = sequences(6, seed=6), warm(dynamics)
        rollout, _ = observe(dynamics, data, state)
        assert rollout.post.requires_grad
        with torch.no_grad():
            feats = torch.stack([imagined(dynamics, state) for state in filtered(dynamics, data, state)], dim=1)
        for last in (None, 1, 4, 6):
            starts = dynamics.starts(rollout, last)
            assert not starts.feat.requires_grad
            assert not any(value.requires_grad for value in starts.memory.values())
            with torch.no_grad():
                assert_close(imagined(dynamics, starts), feats[:, 6 - (last or 6) :].flatten(0, 1))

    @torch.no_grad()
    def test_fork_repeats_rows(self, dynamics):
        state = warm(dynamics)
        forked = dynamics.fork(state, 4)
        assert torch.equal(forked.feat, state.feat.repeat_interleave(4, dim=0))
        assert_close(imagined(dynamics, forked), imagined(dynamics, state).repeat_interleave(4, dim=0))
        actions = torch.rand(4 * BATCH, ACTION, generator=torch.Generator().manual_seed(3)) * 2 - 1
        together = dynamics.img_step(actions, forked)
        for candidate in range(4):
            alone = dynamics.img_step(actions[candidate::4], state)
            rows = together.feat[candidate::4]
            assert_close(rows, alone.feat)
        starts = dynamics.starts(observe(dynamics, sequences(5), state)[0], last=2)
        later = dynamics.img_step(actions[: len(starts.feat)], starts)
        for start in (starts, later):
            repeated = imagined(dynamics, start).repeat_interleave(3, dim=0)
            assert_close(imagined(dynamics, dynamics.fork(start, 3)), repeated)

    @torch.no_grad()
    def test_rows_of_any_state_can_be_selected(self, dynamics):
        state = warm(dynamics)
        starts = dynamics.starts(observe(dynamics, sequences(5), state)[0])
        for chosen in (state, dynamics.fork(state, 2), starts, dynamics.img_step(torch.zeros(15, ACTION), starts)):
            for rows in (torch.tensor([2, 0]), slice(1, 3)):
                some = dynamics.select(chosen, rows)
                assert_close(imagined(dynamics, some), imagined(dynamics, chosen)[rows])
                assert_close(
                    imagined(dynamics, dynamics.fork(some, 2)), imagined(dynamics, some).repeat_interleave(2, 0)
                )

    @torch.no_grad()
    def test_shapes_are_what_is_promised(self, dynamics):
        data = sequences(5)
        state = dynamics.initial(4)
        assert state.feat.shape == (4, dynamics.feat_dim)
        assert all(torch.equal(row, state.feat[0]) for row in state.feat)
        assert {key: v.shape[1:] for key, v in dynamics.initial(2).memory.items()} == {
            key: v.shape[1:] for key, v in state.memory.items()
        }
        rollout, last = observe(dynamics, data, dynamics.initial(BATCH))
        assert rollout.feat.shape == rollout.post.shape == (BATCH, 5, dynamics.feat_dim)
        assert last.feat.shape == (BATCH, dynamics.feat_dim)
        given = dynamics.initial(BATCH).memory
        assert {key: (v.shape, v.dtype) for key, v in last.memory.items()} == {
            key: (v.shape, v.dtype) for key, v in given.items()
        }
        losses = dynamics.loss(rollout, data.reset)
        assert all(loss.shape == (BATCH, 5) for loss in losses.values())
        assert all(value.shape[:2] == (BATCH, 5) for value in dynamics.metrics(rollout).values())

    @torch.no_grad()
    def test_what_does_not_fit_is_refused_in_one_sentence(self, dynamics):
        (embed, action, reset), state = sequences(1).frame(0), warm(dynamics)
        foreign = State(state.feat, {"another": state.feat})
        wider = State(torch.cat([state.feat, state.feat], dim=-1), state.memory)
        larger = State(state.feat, {key: torch.cat([v, v], dim=-1) for key, v in state.memory.items()})
        calls = {
            "observe": lambda a, s: dynamics.observe(embed[:, None], a[:, None], reset[:, None], s),
            "obs_step": lambda a, s: dynamics.obs_step(embed, a, reset, s),
            "img_step": lambda a, s: dynamics.img_step(a, s),
        }
        rollout, _ = observe(dynamics, sequences(2), state)
        for last in (0, 3):
            with pytest.raises(UserError, match=rf"^of a window of 2 steps the last {last} cannot be starts\.$"):
                dynamics.starts(rollout, last)
        for call in calls.values():
            with pytest.raises(UserError, match=r"an action has 2 numbers in this model, not 3\.$"):
                call(torch.zeros(BATCH, ACTION + 1), state)
            for other in (foreign, wider, larger):
                with pytest.raises(UserError, match=r"^this state was not made by this model: .*expected\.$"):
                    call(action, other)
