"""Tests of a backbone's training: gradients everywhere, initialisation, compilation, precision."""

from __future__ import annotations

import torch
from torch import Tensor

from dynamics.base import layout_of
from dynamics.latent import StochasticLatent
from worldmodels.testing.sequences import ACTION, BATCH, assert_close, filtered, observe, randomize, sequences, warm


class Learning:
    """Values and gradients, however they are computed."""

    compiled_steps: int = 36
    """Length of the sequences that are compiled: more than a chunk of any parallel scan here."""

    def test_gradients_reach_every_parameter(self, make):
        dynamics = randomize(make())
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

    def test_initialization_reaches_every_parameter(self, make):
        torch.use_deterministic_algorithms(True)  # fills what is allocated and not initialised with NaN
        try:
            first, second, again = (make(seed) for seed in (0, 1, 0))
        finally:
            torch.use_deterministic_algorithms(False)
        for (name, a), b, c in zip(first.named_parameters(), second.parameters(), again.parameters(), strict=True):
            assert a.isfinite().all(), name
            assert torch.equal(a, c), name
            assert a.ndim < 2 or not torch.equal(a, b), name

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
                data = sequences(self.compiled_steps, seed)
                for a, b in zip(gradients(losses, data), gradients(compiled, data), strict=True):
                    assert (a is None) == (b is None)
                    if a is not None:
                        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

    @torch.no_grad()
    def test_in_bf16_a_core_scans_as_it_steps(self, dynamics):
        """From the same inputs: core outputs and the prior's logits, within 2 % of their size, and as far from fp32."""
        data = sequences(40, seed=17)
        if not isinstance(dynamics, StochasticLatent):  # no core: what is observed, as what is filtered
            with torch.autocast("cpu", torch.bfloat16):
                rollout, _ = observe(dynamics, data, dynamics.initial(BATCH))
                feats = [state.feat for state in filtered(dynamics, data, dynamics.initial(BATCH))]
            exact, _ = observe(dynamics, data, dynamics.initial(BATCH))
            assert_near(rollout.post, torch.stack(feats, dim=1), exact.post)
            assert_near(rollout.feat, exact.feat, exact.feat)
            return
        core = dynamics.core
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
                assert_near(part(a), part(b), part(exact))
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


def assert_near(a: Tensor, b: Tensor, exact: Tensor) -> None:
    """Apart by at most 2 % of the size of what is exact, over all: bf16 keeps three digits of a product."""
    assert (a - b).square().mean() < 0.02**2 * exact.square().mean()


def _is_index(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex())
