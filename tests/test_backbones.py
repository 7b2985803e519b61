"""What is particular to each backbone, held against its paper's equations in float64 NumPy."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from dynamics_cases import Subject, config, subjects
from hydra.utils import instantiate
from torch.utils.flop_counter import FlopCounterMode

from dynamics import mamba, mamba_fused
from dynamics.base import Core, fits
from dynamics.implicit import Implicit
from dynamics.koopman import Koopman
from dynamics.mamba import Mamba
from dynamics.ssm import S4D, S5, SSM, hippo_eigenvalues
from dynamics.transformer import Transformer
from worldmodels.errors import UserError
from worldmodels.testing.sequences import BATCH, assert_close, imagined, observe, randomise, sequences, warm

IN = 6
CORES = sorted({subject.name for subject in subjects() if subject.posterior})


def build_core(name: str, **options) -> Core:
    torch.manual_seed(0)
    return randomise(instantiate(config(name).dynamics.core, **options)(in_dim=IN))


def inputs(length: int, seed: int = 0, share: float = 0.2):
    data = sequences(length, seed, share)
    x = torch.randn(BATCH, length, IN, generator=torch.Generator().manual_seed(seed))
    return x, data.reset


def stepped(core, x, reset, memory):
    outputs = []
    for t in range(x.shape[1]):
        output, memory = core.step(x[:, t], reset[:, t], memory)
        outputs.append(output)
    return torch.stack(outputs, dim=1), memory


def numpy_weights(module):
    return {key: value.detach().double().numpy() for key, value in module.state_dict().items()}


def layer_norm(x, weight, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


def softplus(x):
    return np.log1p(np.exp(x))


# All cores


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_a_step_costs_the_same_however_old_the_memory(name):
    core, costs, memory = build_core(name), [], None
    x, reset = inputs(1, share=0.0)
    memory = core.initial(BATCH)
    for _ in range(200):
        sizes = {key: value.shape for key, value in memory.items()}
        with FlopCounterMode(display=False) as counter:
            _, memory = core.step(x[:, 0], reset[:, 0], memory)
        costs.append((counter.get_total_flops(), sizes))
    assert costs[0][0] > 0
    assert all(cost == costs[0] for cost in costs)


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_all_starts_of_a_long_sequence_are_the_filtered_memories(name):
    core = build_core(name)
    x, reset = inputs(50, seed=3)
    before = stepped(core, *inputs(9, seed=1), core.initial(BATCH))[1]
    _, entries, _ = core.scan(x, reset, before)
    memory, expected = before, []
    later = torch.randn(BATCH, IN, generator=torch.Generator().manual_seed(7))
    for t in range(50):
        _, memory = core.step(x[:, t], reset[:, t], memory)
        expected.append(core.step(later, None, memory)[0])
    expected = torch.stack(expected, dim=1)
    for last in (1, 7, 50):
        starts = core.starts(entries, reset, before, last)
        found = core.step(later.repeat_interleave(last, 0), None, starts)[0]
        assert_close(found.unflatten(0, (BATCH, last)), expected[:, -last:])


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_starts_are_not_rounded_in_bf16(name):
    core = build_core(name)
    x, reset = inputs(70, seed=3)
    before = core.initial(BATCH)
    entries = core.scan(x[:, :64], reset[:, :64], before)[1]
    exact = core.starts(entries, reset[:, :64], before, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = core.starts(entries, reset[:, :64], before, 2)
    assert all(torch.equal(found[key], value) for key, value in exact.items())


# State spaces


def test_hippo_is_diagonalised():
    size = 8
    n = np.arange(2 * size)
    legs = -np.sqrt(np.outer(2 * n + 1, 2 * n + 1)) * np.tri(2 * size, k=-1) - np.diag(n + 1.0)
    low_rank = np.sqrt(n + 0.5)
    normal = legs + np.outer(low_rank, low_rank)
    eigenvalues, vectors = (x.numpy() for x in hippo_eigenvalues(size))
    np.testing.assert_allclose(normal @ vectors, vectors * eigenvalues, atol=1e-10)
    assert (eigenvalues.imag > 0).all()
    np.testing.assert_allclose(eigenvalues.real, -0.5)


@torch.no_grad()
@pytest.mark.parametrize("kind", [S5, S4D])
def test_a_state_space_is_its_differential_equation_held_between_steps(kind):
    """x' = Lambda x + B u with u constant over a step, integrated finely by Euler in float64."""
    torch.manual_seed(0)
    space = randomise(kind(width=4, state=3), scale=0.1)
    u = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    decay, scale = space.discretise()
    state, found = torch.zeros(space.shape, dtype=torch.cfloat), []
    for t in range(6):
        state = decay * state + scale * space.enter(u[t])
        found.append(space.leave(state))
    w = numpy_weights(space)
    eigenvalues, delta = -np.exp(w["rate"]) + 1j * w["frequency"], np.exp(w["log_step"])
    x, expected, fine = np.zeros(space.shape, complex), [], 20_000
    for t in range(6):
        drive = space.enter(u[t]).numpy()
        for _ in range(fine):
            x = x + delta / fine * (eigenvalues * x + drive)
        if kind is S5:
            c = w["out"][:, 0::2] - 1j * w["out"][:, 1::2]
            expected.append(2 * (c @ x).real)
        else:
            expected.append(2 * ((w["out"][..., 0] + 1j * w["out"][..., 1]) * x).real.sum(-1))
    np.testing.assert_allclose(torch.stack(found).numpy(), np.array(expected), rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_s5_mixes_channels_and_s4d_does_not():
    for kind, mixes in ((S5, True), (S4D, False)):
        torch.manual_seed(0)
        space = kind(width=4, state=3)
        u = torch.zeros(4)
        u[1] = 1.0
        touched = (space.leave(space.enter(u)) != 0).tolist()
        assert touched == ([True] * 4 if mixes else [False, True, False, False])


@torch.no_grad()
def test_at_first_a_state_space_remembers_a_thousand_steps():
    torch.manual_seed(0)
    core = SSM(IN, 16, 1, partial(S5, state=32))
    decay = core.blocks[0].space.discretise()[0].abs()
    assert decay.max() ** 1000 > 0.5
    assert decay.min() ** 100 < 0.1


# Koopman


@torch.no_grad()
def test_koopman_is_linear_in_time_and_in_its_inputs():
    core = randomise(Koopman(IN, 5))
    x, _ = inputs(7)
    none = torch.zeros(BATCH, 7, dtype=torch.bool)
    outputs, _, _ = core.scan(x, none, core.initial(BATCH))
    w = numpy_weights(core)
    eigenvalues = np.exp(-np.exp(w["rate"]) + 1j * w["frequency"])
    assert (abs(eigenvalues) < 1).all()
    drive = x.double().numpy() @ (w["into.weight"][0::2] + 1j * w["into.weight"][1::2]).T
    drive = drive * np.sqrt(1 - abs(eigenvalues) ** 2)
    for t in range(7):
        g = sum(eigenvalues ** (t - s) * drive[:, s] for s in range(t + 1))
        expected = np.stack([g.real, g.imag], axis=-1).reshape(BATCH, -1)
        np.testing.assert_allclose(outputs[:, t].numpy(), expected, atol=1e-5)


# Mamba


@torch.no_grad()
def test_mamba_is_its_recurrence(monkeypatch):
    """One layer, several heads, step by step in NumPy."""
    monkeypatch.setattr(mamba, "CHUNK", 4)
    core = randomise(Mamba(IN, 8, 1, expand=2, head=4, state=3, kernel=3))
    x, reset = inputs(11, share=0.2)
    outputs, _, _ = core.scan(x, reset, core.initial(BATCH))
    w = numpy_weights(core)
    m = {key.removeprefix("mixers.0."): value for key, value in w.items() if key.startswith("mixers.0.")}
    inner, heads, head, state, kernel = 16, 4, 4, 3, 3
    for row in range(BATCH):
        window, h = np.zeros((kernel, inner + 2 * state)), np.zeros((heads, head, state))
        for t in range(11):
            if reset[row, t]:
                window[:], h[:] = 0, 0
            u = w["embed.weight"] @ x[row, t].double().numpy() + w["embed.bias"]
            projected = m["into.weight"] @ layer_norm(u, w["norms.0.weight"], w["norms.0.bias"])
            gate, xbc, dt = np.split(projected, [inner, 2 * inner + 2 * state])
            window = np.concatenate([window[1:], xbc[None]])
            xbc = (window * m["taps"]).sum(0) + m["bias"]
            v, b, c = np.split(xbc * sigmoid(xbc), [inner, inner + state])
            v, dt = v.reshape(heads, head), softplus(dt + m["step_bias"])
            h = np.exp(-np.exp(m["log_rate"]) * dt)[:, None, None] * h + (dt[:, None] * v)[..., None] * b
            y = (h @ c + m["skip"][:, None] * v).reshape(-1)
            y = layer_norm(y * gate * sigmoid(gate), m["norm.weight"], m["norm.bias"])
            expected = layer_norm(u + m["out.weight"] @ y, w["norm.weight"], w["norm.bias"])
            np.testing.assert_allclose(outputs[row, t].numpy(), expected, atol=1e-5)


def test_mamba_keeps_inputs_of_a_sequence_not_states():
    core = build_core("mamba")
    _, entries, last = core.scan(*inputs(20), core.initial(BATCH))
    kept, whole = (sum(v[:, 0].numel() if v.ndim == 3 else v.numel() for v in m.values()) for m in (entries, last))
    assert kept * 3 < whole


def fake_kernel(spoil: float):
    """What `mamba-ssm` offers, computed by our own scan, and made wrong by ``spoil``."""

    def combined(x, dt, a, b, c, chunk_size, initial_states, seq_idx, return_final_states):
        assert seq_idx.dtype == torch.int32
        assert return_final_states
        decay = dt * a
        y, last = mamba.chunked_scan(x * dt[..., None], decay, b[:, :, 0], c[:, :, 0], seq_idx.long(), initial_states)
        return y * (1 + spoil), last

    return combined


@pytest.mark.parametrize("asked_in", [nullcontext, torch.no_grad, partial(torch.autocast, "cpu", torch.bfloat16)])
@pytest.mark.parametrize(("spoil", "used"), [(0.0, True), (0.1, False), (float("nan"), False), (None, False)])
def test_a_fused_kernel_is_used_only_where_it_gives_the_same_numbers(monkeypatch, caplog, spoil, used, asked_in):
    names = ["mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.ops.triton.ssd_combined"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    if spoil is not None:
        sys.modules[names[-1]].mamba_chunk_scan_combined = fake_kernel(spoil)
    sys.modules["mamba_ssm"].__spec__ = SimpleNamespace()
    mamba_fused._decide.cache_clear()
    core = build_core("mamba")
    x, reset = inputs(9)
    expected = stepped(core, x, reset, core.initial(BATCH))[0]
    with caplog.at_level(logging.INFO), asked_in():
        outputs, _, _ = core.scan(x, reset, core.initial(BATCH))
    chosen = mamba_fused.fused_is_exact(torch.device("cpu"), mamba.chunked_scan)
    mamba_fused._decide.cache_clear()
    assert chosen is used
    assert ("the fused kernel is used" if used else "plain PyTorch is used") in caplog.text
    assert (outputs - expected).abs().max() < (0.1 if isinstance(asked_in, partial) else 1e-5)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="heads of 7 do not divide the 16 channels"):
        Mamba(IN, 8, 1, expand=2, head=7)


# Transformer


def attention_reference(core, x, start_of):
    """Outputs [T, D] of one row without any cache: every step sees its episode's last ``window`` steps."""
    w, heads = numpy_weights(core), core.heads
    u = x.double().numpy() @ w["embed.weight"].T + w["embed.bias"]
    length, size = len(u), u.shape[1] // heads
    angles = np.arange(length)[:, None] * 10_000.0 ** (-np.arange(size // 2) / (size // 2))

    def turned(y):
        a, b = np.split(y, 2, axis=-1)
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], -1)

    for i in range(len(core.blocks)):
        p = {key.removeprefix(f"blocks.{i}."): value for key, value in w.items() if key.startswith(f"blocks.{i}.")}
        q, k, v = np.split(layer_norm(u, p["norm.weight"], p["norm.bias"]) @ p["qkv.weight"].T, 3, axis=-1)
        out = np.zeros_like(u)
        for n in range(heads):
            own = slice(n * size, (n + 1) * size)
            scores = turned(q[:, own]) @ turned(k[:, own]).T / np.sqrt(size)
            for t in range(length):
                seen = np.arange(max(start_of[t], t - core.window + 1), t + 1)
                weights = np.exp(scores[t, seen] - scores[t, seen].max())
                out[t, own] = weights / weights.sum() @ v[seen, own]
        u = u + out @ p["out.weight"].T
        hidden = layer_norm(u, p["mlp.0.weight"], p["mlp.0.bias"]) @ p["mlp.1.weight"].T + p["mlp.1.bias"]
        u = u + gelu(hidden) @ p["mlp.3.weight"].T + p["mlp.3.bias"]
    return layer_norm(u, w["norm.weight"], w["norm.bias"])


@torch.no_grad()
@pytest.mark.parametrize("chunk", [None, 1, 5, 8], ids=lambda c: f"chunks-{c}")
def test_the_window_slides_as_if_there_were_no_cache(chunk):
    """60 steps through a ring of 8, filtered one by one, or observed in chunks; resets now and then."""
    core = randomise(Transformer(IN, 12, 2, heads=2, window=8))
    x, reset = inputs(60, share=0.04)
    if chunk is None:
        outputs, _ = stepped(core, x, reset, core.initial(BATCH))
    else:
        memory, parts = core.initial(BATCH), []
        for a, r in zip(x.split(chunk, 1), reset.split(chunk, 1), strict=True):
            part, _, memory = core.scan(a, r, memory)
            parts.append(part)
        outputs = torch.cat(parts, dim=1)
    for row in range(BATCH):
        start_of = np.maximum.accumulate(np.where(reset[row].numpy(), np.arange(60), 0))
        np.testing.assert_allclose(outputs[row].numpy(), attention_reference(core, x[row], start_of), atol=1e-5)


@torch.no_grad()
def test_imagined_rows_lose_what_their_window_has_left_behind():
    """Eight imagined steps from full rings, shared or not: the last no longer sees anything of the past."""
    core = randomise(Transformer(IN, 12, 2, heads=2, window=8))
    memories = [stepped(core, *inputs(20, seed, share=0.0), core.initial(BATCH))[1] for seed in (1, 2)]
    ahead, none = torch.randn(8, BATCH, IN, generator=torch.Generator().manual_seed(0)), None
    outputs = []
    for memory in memories:
        forked, seen = core.fork(memory, 3), []
        for x in ahead:
            ring, memory = core.step(x, none, memory)
            shared, forked = core.step(x.repeat_interleave(3, 0), none, forked)
            assert_close(shared, ring.repeat_interleave(3, 0))
            seen.append(ring)
        outputs.append(seen)
    # A second layer still carries what the first saw: the past is gone once every layer's window has passed it.
    assert not torch.allclose(outputs[0][6], outputs[1][6])
    one = randomise(Transformer(IN, 12, 1, heads=2, window=8))
    memories = [stepped(one, *inputs(20, seed, share=0.0), one.initial(BATCH))[1] for seed in (1, 2)]
    ends = []
    for memory in memories:
        forked = one.fork(memory, 1)
        for x in ahead:
            last, forked = one.step(x, none, forked)
        ends.append(last)
    assert_close(*ends)


@torch.no_grad()
def test_imagining_from_every_posterior_copies_no_keys():
    dynamics = Subject("transformer", "obs").build()
    core = dynamics.core
    data = sequences(40)
    rollout, _ = observe(dynamics, data, dynamics.initial(BATCH))
    state = dynamics.starts(rollout)
    ring = sum(v[0].numel() for key, v in core.initial(1).items() if key != "pos")
    prefix = BATCH * ring * (core.window + 40) // core.window
    held = sum(v.numel() for key, v in state.memory.items() if key.startswith(("shared_k", "shared_v", "own_")))
    assert held == prefix
    after = state
    for _ in range(4):
        after = dynamics.img_step(torch.zeros(BATCH * 40, 2), after)
    for key, value in state.memory.items():
        if key.startswith("shared"):
            assert after.memory[key].data_ptr() == value.data_ptr()
    forked = dynamics.fork(warm(dynamics), 50)
    ringed = {key: value.shape for key, value in core.initial(BATCH).items() if key != "pos"}
    assert {key: forked.memory[f"shared_{key}"].shape for key in ringed} == ringed


def test_what_a_transformer_cannot_do_is_said_in_one_sentence():
    for heads in (5, 4):
        with pytest.raises(
            UserError, match=f"^{heads} heads do not divide 12 channels into heads of even size.*heads\\.$"
        ):
            Transformer(IN, 12, 1, heads=heads, window=8)
    with pytest.raises(UserError, match=r"window=0 must be at least 1\.$"):
        Transformer(IN, 12, 1, heads=2, window=0)
    core = Transformer(IN, 12, 1, heads=2, window=8)
    with pytest.raises(UserError, match=r"^a sequence of 9 steps is longer than the transformer's window of 8: .*\.$"):
        core.scan(*inputs(9), core.initial(BATCH))
    x, reset = inputs(1)
    memory = core.fork(core.initial(BATCH), 2)
    with pytest.raises(UserError, match=r"^frames cannot be filtered into imagined states of a transformer: .*\.$"):
        core.step(x[:, 0].repeat_interleave(2, 0), reset[:, 0].repeat_interleave(2), memory)
    with pytest.raises(UserError, match=r"^frames cannot be filtered into imagined states of a transformer: .*\.$"):
        core.scan(*inputs(2), memory)
    assert fits(memory, core.layouts()[1])
    for other in (Transformer(IN, 12, 2, heads=2, window=8), Transformer(IN, 24, 1, heads=2, window=8)):
        assert not any(fits(memory, layout) for layout in other.layouts())
    for _ in range(8):
        _, memory = core.step(x[:, 0].repeat_interleave(2, 0), None, memory)
    with pytest.raises(UserError, match=r"^the transformer cannot imagine more than its window of 8 steps: .*\.$"):
        core.step(x[:, 0].repeat_interleave(2, 0), None, memory)


# Implicit


def test_consistency_weighs_predictions_and_stops_at_their_targets():
    dynamics = randomise(Implicit(7, 2, latent=16, hidden=8, simplex=4, unroll=2, rho=0.5))
    data = sequences(6, share=0.0)
    data.reset[1, 4] = True
    rollout, _ = observe(dynamics, data, dynamics.initial(BATCH))
    loss = dynamics.loss(rollout, data.reset)["consistency"]
    age = torch.tensor([0, 1, 2, 0, 1, 2]).repeat(BATCH, 1)
    age[1, 4:] = torch.tensor([0, 1])
    error = (rollout.feat - rollout.post).square().mean(-1)
    expected = error * torch.tensor([0.0, 1.0, 0.5])[age]
    torch.testing.assert_close(loss.mean(), expected.sum() / (age > 0).sum())
    assert torch.equal(loss == 0, age == 0)
    # Row 0, step 2 is predicted from the frame of step 0: no other frame may learn from it.
    embed = data.embed.clone().requires_grad_()
    rollout, _ = dynamics.observe(embed, data.action, data.reset, dynamics.initial(BATCH))
    dynamics.loss(rollout, data.reset)["consistency"][0, 2].backward()
    assert embed.grad.abs().amax(-1).nonzero().tolist() == [[0, 0]]


@torch.no_grad()
def test_implicit_latents_are_simplices_and_open_loop_between_groundings():
    dynamics = randomise(Implicit(7, 2, latent=16, hidden=8, simplex=4, unroll=3))
    data = sequences(8, share=0.0)
    rollout, _ = observe(dynamics, data, dynamics.initial(BATCH))
    torch.testing.assert_close(rollout.feat.unflatten(-1, (4, 4)).sum(-1), torch.ones(BATCH, 8, 4))
    state = dynamics.obs_step(*data.frame(0), dynamics.initial(BATCH))
    for t in range(1, 4):
        state = dynamics.img_step(data.action[:, t], state)
        assert_close(rollout.feat[:, t], state.feat)
    assert_close(rollout.feat[:, 4], rollout.post[:, 4])
    assert imagined(dynamics, state).shape == (BATCH, 4, 16)


def test_an_implicit_latent_says_what_does_not_fit():
    with pytest.raises(UserError, match="10 numbers does not divide into simplices of 4"):
        Implicit(7, 2, latent=10, hidden=8, simplex=4)
    with pytest.raises(UserError, match="unroll=0 must be at least 1"):
        Implicit(7, 2, latent=8, hidden=8, unroll=0)
