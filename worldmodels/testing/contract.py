"""The contract of `dynamics/base.py` as tests: every file in configs/dynamics is held to it without a line of its own.

Comparisons are in fp32 with ``sample=False`` and random weights everywhere: what starts at zero ties with anything.
States are compared by what is imagined from them, because their memory is private to the backbone.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dynamics.base import Dynamics, State, clear_rows, layout_of
from dynamics.latent import Latent
from worldmodels.errors import UserError
from worldmodels.testing.sequences import (
    ACTION,
    BATCH,
    EMBED,
    assert_close,
    assert_same_state,
    filtered,
    imagined,
    observe,
    per_step,
    randomise,
    sequences,
    warm,
)

LONG = 64
"""Steps of the longest sequences."""


class DynamicsContract:
    """Inherit in a test module and say in :meth:`build` how your backbone is made."""

    thorough: bool = True
    """False: fewer lengths, for the tenth variant of a backbone."""

    def build(self, embed_dim: int, action_dim: int) -> Dynamics:
        """A small, freshly initialised backbone."""
        raise NotImplementedError

    @pytest.fixture
    def make(self):
        """Builds from a seed."""

        def seeded(seed: int = 0) -> Dynamics:
            torch.manual_seed(seed)
            return self.build(EMBED, ACTION)

        return seeded

    @pytest.fixture
    def dynamics(self, make):
        """With random weights everywhere, and latents at their mode."""
        dynamics = randomise(make())
        dynamics.sample = False
        return dynamics

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
            assert torch.equal(plain.feat[0], other.feat[0]) != dynamics.remembers
        fresh = dynamics.obs_step(embed, action, torch.tensor([True] * BATCH), dynamics.initial(BATCH))
        assert torch.equal(imagined(dynamics, plain)[1], imagined(dynamics, fresh)[1])
        never = dynamics.obs_step(embed, action, torch.zeros_like(reset), state)
        assert torch.equal(imagined(dynamics, plain)[[0, 2]], imagined(dynamics, never)[[0, 2]])
        assert torch.equal(plain.feat[1], never.feat[1]) != dynamics.remembers

    @torch.no_grad()
    def test_the_first_action_of_an_episode_survives(self, dynamics):
        data = sequences(4, seed=5, share=0.0)
        data.reset[:, 1] = True
        changed = data.clone()
        changed.action[:, 2] += 1
        before, after = (observe(dynamics, x, warm(dynamics))[0].feat for x in (data, changed))
        assert torch.equal(before[:, :2], after[:, :2])
        assert all(not torch.equal(before[row, 2], after[row, 2]) for row in range(BATCH))

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
        for call in calls.values():
            with pytest.raises(UserError, match=r"an action has 2 numbers in this model, not 3\.$"):
                call(torch.zeros(BATCH, ACTION + 1), state)
            for other in (foreign, wider, larger):
                with pytest.raises(UserError, match=r"^this state was not made by this model: .*expected\.$"):
                    call(action, other)

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
                if not data.reset[:, t].any() and (dynamics.remembers or part == "embed"):
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

    def test_gradients_reach_every_parameter(self, make):
        dynamics = randomise(make())
        if hasattr(dynamics, "free_nats"):
            dynamics.free_nats = 0.0
        data = sequences(5, seed=11)
        rollout, _ = observe(dynamics, data, dynamics.initial(BATCH))
        weight = torch.randn(dynamics.feat_dim, generator=torch.Generator().manual_seed(0))
        loss = (rollout.feat @ weight).mean() + sum(x.mean() for x in dynamics.loss(rollout, data.reset).values())
        loss.backward()
        dead = [name for name, p in dynamics.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert not dead
        assert all(p.grad.isfinite().all() for p in dynamics.parameters())

    def test_imagination_passes_gradients_to_actions(self, dynamics):
        dynamics.sample = True
        action = torch.zeros(BATCH, ACTION, requires_grad=True)
        state = dynamics.img_step(action, warm(dynamics))
        state = dynamics.img_step(torch.ones(BATCH, ACTION), state)
        state.feat.square().sum().backward()
        assert (action.grad.abs().sum(1) > 0).all()

    def test_initialisation_reaches_every_parameter(self, make):
        torch.use_deterministic_algorithms(True)  # fills what is allocated and not initialised with NaN
        try:
            first, second, again = (make(seed) for seed in (0, 1, 0))
        finally:
            torch.use_deterministic_algorithms(False)
        for (name, a), b, c in zip(first.named_parameters(), second.parameters(), again.parameters(), strict=True):
            assert a.isfinite().all(), name
            assert torch.equal(a, c), name
            assert a.ndim < 2 or not torch.equal(a, b), name

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

    def test_observing_still_equals_filtering_after_an_update(self, dynamics):
        data = sequences(6, seed=14)
        rollout, _ = observe(dynamics, data, dynamics.initial(BATCH))
        sum(loss.mean() for loss in dynamics.loss(rollout, data.reset).values()).backward()
        torch.optim.Adam(dynamics.parameters(), lr=0.01).step()
        with torch.no_grad():
            after, _ = observe(dynamics, data, dynamics.initial(BATCH))
            states = filtered(dynamics, data, dynamics.initial(BATCH))
        assert not torch.equal(after.post, rollout.post)
        assert_close(after.post, torch.stack([state.feat for state in states], dim=1))

    def test_observing_compiles_to_one_graph_that_equals_eager(self, dynamics):
        """Losses and gradients, for every pattern of resets without compiling again."""

        def losses(embed: Tensor, action: Tensor, reset: Tensor) -> Tensor:
            rollout, _ = dynamics.observe(embed, action, reset, dynamics.initial(BATCH))
            return rollout.feat.square().mean() + sum(x.mean() for x in dynamics.loss(rollout, reset).values())

        def gradients(function, data) -> list[Tensor]:
            loss = function(data.embed, data.action, data.reset)
            return [loss, *torch.autograd.grad(loss, list(dynamics.parameters()), allow_unused=True)]

        compiled = torch.compile(losses, fullgraph=True, backend="aot_eager")
        with torch._dynamo.config.patch(error_on_recompile=True):
            for seed in range(3):
                data = sequences(4, seed)
                for a, b in zip(gradients(losses, data), gradients(compiled, data), strict=True):
                    assert (a is None) == (b is None)
                    if a is not None:
                        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

    @torch.no_grad()
    def test_in_bf16_a_core_scans_as_it_steps(self, dynamics):
        """From the same inputs: core outputs and the prior's logits, within 2 % of their size, and as far from fp32."""
        if not isinstance(dynamics, Latent):
            pytest.skip("has no core between its latents")
        core, data = dynamics.core, sequences(40, seed=17)
        stoch = torch.randn(BATCH, 40, dynamics.space.dim, generator=torch.Generator().manual_seed(17))
        x = torch.cat([dynamics.from_stoch(stoch), dynamics.from_action(data.action)], dim=-1)
        exact, _, before = core.scan(x, data.reset, core.initial(BATCH))
        exact, _, _ = core.scan(x, data.reset, before)
        with torch.autocast("cpu", torch.bfloat16):
            scanned, _, last = core.scan(x, data.reset, before)
            outputs, memory = [], before
            for t in range(40):
                output, memory = core.step(x[:, t], data.reset[:, t], memory)
                outputs.append(output)
        stepped = torch.stack(outputs, dim=1)
        assert scanned.dtype == stepped.dtype == torch.float32
        for a, b in ((scanned, stepped), (scanned, exact)):
            for part in (lambda output: output, dynamics.prior):
                assert (part(a) - part(b)).square().mean() < 0.02**2 * part(exact).square().mean()
        assert layout_of(last) == layout_of(memory)

    @torch.no_grad()
    def test_carries_stay_fp32_under_autocast(self, dynamics):
        data = sequences(4, seed=15)
        with torch.autocast("cpu", torch.bfloat16):
            rollout, last = observe(dynamics, data, dynamics.initial(BATCH))
            stepped = dynamics.img_step(data.action[:, 0], last)
            losses = dynamics.loss(rollout, data.reset)
        for state in (last, stepped):
            tensors = [state.feat, *state.memory.values()]
            assert all(x.dtype in (torch.float32, torch.complex64) for x in tensors if not _is_index(x))
        assert all(loss.dtype == torch.float32 for loss in losses.values())


def _is_index(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex())
