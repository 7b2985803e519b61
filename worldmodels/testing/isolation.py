"""Nothing passes from where it must not: over a reset, from the future, between rows, streams or random generators."""

from __future__ import annotations

import torch

from dynamics.base import State, clear_rows
from worldmodels.testing.sequences import (
    BATCH,
    LONG,
    assert_close,
    assert_same_state,
    filtered,
    imagined,
    observe,
    per_step,
    sequences,
    warm,
)


class Isolation:
    """Tests of what a state may depend on, and what not."""

    @torch.no_grad()
    def test_after_a_reset_a_window_is_a_fresh_sequence(self, dynamics):
        for cut in (0, 1, 4):
            data = sequences(8, seed=3, share=0.0)
            data.reset[:, cut] = True
            rollout, last = observe(dynamics, data, warm(dynamics))
            fresh, fresh_last = observe(dynamics, data[:, cut:], dynamics.initial(BATCH))
            for key, value in per_step(rollout).items():
                assert_close(value[:, cut:], per_step(fresh)[key])
            assert_same_state(dynamics, last, fresh_last)

    @torch.no_grad()
    def test_a_reset_clears_its_row_and_no_other(self, dynamics):
        embed, action, _ = sequences(1, seed=4).frame(0)
        reset, state = torch.tensor([False, True, False]), warm(dynamics)
        plain = dynamics.obs_step(embed, action, reset, state)
        other_past = dynamics.obs_step(embed, action, reset, warm(dynamics, seed=10))
        other_action = dynamics.obs_step(embed, action.flip(0) + 1, reset, state)
        for other in (other_past, other_action):
            assert torch.equal(imagined(dynamics, plain)[1], imagined(dynamics, other)[1])
            assert torch.equal(plain.feat[0], other.feat[0]) != dynamics.recurrent
        fresh = dynamics.obs_step(embed, action, torch.tensor([True] * BATCH), dynamics.initial(BATCH))
        assert torch.equal(imagined(dynamics, plain)[1], imagined(dynamics, fresh)[1])
        never = dynamics.obs_step(embed, action, torch.zeros_like(reset), state)
        assert torch.equal(imagined(dynamics, plain)[[0, 2]], imagined(dynamics, never)[[0, 2]])
        assert torch.equal(plain.feat[1], never.feat[1]) != dynamics.recurrent

    @torch.no_grad()
    def test_the_first_action_of_an_episode_survives(self, dynamics):
        data = sequences(4, seed=5, share=0.0)
        data.reset[:, 1] = True
        changed = data.clone()
        changed.action[:, 2] += 1
        before, after = (observe(dynamics, x, warm(dynamics))[0].feat for x in (data, changed))
        assert torch.equal(before[:, :2], after[:, :2])
        assert all(not torch.equal(before[row, 2], after[row, 2]) for row in range(BATCH))

    @torch.no_grad()
    def test_nothing_leaks_from_the_future(self, dynamics):
        data, state = sequences(6, seed=7), warm(dynamics)
        data.reset[:, 3:] = False
        plain, _ = observe(dynamics, data, state)
        for t in range(1, 6):
            for part in ("embed", "action", "reset"):
                changed = data.clone()
                value = getattr(changed, part)[:, t]
                value.copy_(~value if part == "reset" else value + 3 * torch.randn_like(value))
                other, _ = observe(dynamics, changed, state)
                for key, expected in per_step(plain).items():
                    assert torch.equal(per_step(other)[key][:, :t], expected[:, :t]), (part, key)
                if not data.reset[:, t].any() and (dynamics.recurrent or part == "embed"):
                    assert not torch.equal(other.post[:, t], plain.post[:, t]), part

    @torch.no_grad()
    def test_nothing_leaks_over_a_reset_or_between_rows(self, dynamics):
        data, state = sequences(7, seed=8, share=0.0), warm(dynamics)
        data.reset[1, 4] = True
        changed = data.clone()
        changed.embed[1, :4] += 1
        changed.action[1, :5] -= 1
        changed.reset[1, 2] = True
        unlike, row = warm(dynamics, seed=10), torch.tensor([False, True, False])
        other_state = State(
            torch.where(row[:, None], unlike.feat, state.feat), clear_rows(state.memory, row, unlike.memory)
        )
        plain, plain_last = observe(dynamics, data, state)
        other, other_last = observe(dynamics, changed, other_state)
        for key, expected in per_step(plain).items():
            value = per_step(other)[key]
            assert torch.equal(value[1, 4:], expected[1, 4:]), key
            assert torch.equal(value[[0, 2]], expected[[0, 2]]), key
            assert not torch.equal(value[1, :4], expected[1, :4]), key
        assert torch.equal(imagined(dynamics, plain_last), imagined(dynamics, other_last))

    @torch.no_grad()
    def test_long_sequences_leak_nothing_and_split_anywhere(self, dynamics):
        """Long enough for every chunk of a parallel scan to have one before and one after it."""
        data, state = sequences(LONG, seed=16, share=0.02), warm(dynamics)
        data.reset[1, 50] = True
        plain, end = observe(dynamics, data, state)
        past, future = data.clone(), data.clone()
        past.embed[1, :50] += 1
        past.action[1, :51] -= 1
        past.reset[1, 20] = True
        future.embed[:, 40:] += 1
        future.action[:, 40:] -= 1
        future.reset[:, 45] = True
        for key, expected in per_step(observe(dynamics, past, state)[0]).items():
            assert torch.equal(per_step(plain)[key][1, 50:], expected[1, 50:]), key
            assert torch.equal(per_step(plain)[key][[0, 2]], expected[[0, 2]]), key
        for key, expected in per_step(observe(dynamics, future, state)[0]).items():
            assert torch.equal(per_step(plain)[key][:, :40], expected[:, :40]), key
        for cut in (15, 16, 17, 31, 32, 33, 48):
            first, middle = observe(dynamics, data[:, :cut], state)
            second, last = observe(dynamics, data[:, cut:], middle)
            assert_close(torch.cat([first.post, second.post], dim=1), plain.post)
            assert_same_state(dynamics, last, end)

    @torch.no_grad()
    def test_interleaved_streams_do_not_disturb_one_another(self, dynamics):
        one, two = sequences(5, seed=12), sequences(5, seed=13)
        buffers = {key: value.clone() for key, value in dynamics.state_dict().items()}
        alone = [torch.stack([s.feat for s in filtered(dynamics, x, dynamics.initial(BATCH))]) for x in (one, two)]
        states = [dynamics.initial(BATCH), dynamics.initial(BATCH)]
        for t in range(5):
            for i, data in enumerate((one, two)):
                given = states[i].map(torch.clone)
                after = dynamics.obs_step(*data.frame(t), states[i])
                dynamics.img_step(data.action[:, t], after)
                observe(dynamics, two, dynamics.initial(BATCH))
                assert torch.equal(given.feat, states[i].feat)
                assert all(torch.equal(value, states[i].memory[key]) for key, value in given.memory.items())
                assert torch.equal(after.feat, alone[i][t])
                states[i] = after
        assert buffers.keys() == dynamics.state_dict().keys()
        assert all(torch.equal(value, buffers[key]) for key, value in dynamics.state_dict().items())

    @torch.no_grad()
    def test_generators_alone_decide_what_is_drawn(self, dynamics):
        dynamics.sample = True
        state, (embed, action, reset) = warm(dynamics), sequences(1).frame(0)
        draws = []
        for unrelated in (0, 1):
            torch.manual_seed(unrelated)
            before, generator = torch.get_rng_state(), torch.Generator().manual_seed(0)
            after = dynamics.obs_step(embed, action, reset, state, generator)
            draws.append((after.feat, dynamics.img_step(action, after, generator).feat))
            assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(a, b) for a, b in zip(draws[0], draws[1], strict=True))

    @torch.no_grad()
    def test_a_frame_is_filtered_at_the_mode_or_drawn_as_asked(self, dynamics):
        """The argument of ``obs_step`` decides, whatever the module says."""
        state, (embed, action, reset) = warm(dynamics), sequences(1).frame(0)

        def filtered_once(attribute, argument):
            dynamics.sample = attribute
            torch.manual_seed(0)
            feat = dynamics.obs_step(embed, action, reset, state, None, argument).feat
            assert dynamics.sample == attribute
            return feat

        for argument in (True, False):
            own = filtered_once(argument, None)
            assert torch.equal(filtered_once(True, argument), own)
            assert torch.equal(filtered_once(False, argument), own)
