"""Mamba-2 (Dao and Gu 2024, "Transformers are SSMs") in chunked matrix form, with resets. The core of Drama.

State of a head: ``h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T`` and ``y_t = h_t C_t + D x_t`` (eq. 2), where A is a
number and x, B, C, dt follow from the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from dynamics.base import Core, Memory
from dynamics.mamba_scan import chunked_scan, fused_is_exact, fused_scan
from dynamics.scan import linear_scan
from worldmodels.common.options import Ascending, Count, MoreThan, checked
from worldmodels.common.precision import wide
from worldmodels.errors import OptionError
from worldmodels.nets.layers import DEFAULT_STYLE, NetStyle, init_linear_


class Mixer(nn.Module):
    """Projection, short causal convolution, the scan, a gate, a norm (figure 6), with one group of B and C.

    Its inputs at a step are [x, B, C, dt]. The paper's norm is RMSNorm, which is ``rms`` of the style.
    The convolution's window holds the last ``kernel`` of them: with what came before, all that states follow from.
    """

    def __init__(
        self,
        width: int,
        expand: int,
        head_dim: int,
        state_dim: int,
        kernel: int,
        decay_range: Sequence[int | float],
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        inner = expand * width
        if inner % head_dim:
            raise OptionError("head_dim", head_dim, f"must divide the {inner} channels of expand * width")
        self.heads, self.head_dim, self.state_dim = inner // head_dim, head_dim, state_dim
        self.kernel, self.inner = kernel, inner
        self.convolved = inner + 2 * state_dim
        self.inputs = self.convolved + self.heads
        self.in_proj = init_linear_(nn.Linear(width, inner + self.inputs, bias=False), style=style)
        self.taps = nn.Parameter(torch.empty(kernel, self.convolved).uniform_(-1, 1) / math.sqrt(kernel))
        self.bias = nn.Parameter(torch.zeros(self.convolved))
        step = torch.exp(torch.empty(self.heads).uniform_(math.log(1e-3), math.log(1e-1)))
        self.step_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.log_rate = nn.Parameter(torch.empty(self.heads).uniform_(*decay_range).log())
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm = style.make_norm(inner)
        self.out = init_linear_(nn.Linear(inner, width, bias=False), style=style)

    def project(self, u: Float[Tensor, "... W"]) -> tuple[Float[Tensor, "... I"], Float[Tensor, "... V"]]:
        """Return the gate, and the inputs in fp32."""
        gate, inputs = self.in_proj(u).split((self.inner, self.inputs), dim=-1)
        return gate, wide(inputs)

    def convolve(
        self, inputs: Float[Tensor, "B T V"], before: Float[Tensor, "B K V"], episode: Int64[Tensor, "B T"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x [B, T, H, P], B and C [B, T, S], dt [B, T, H]. A window reaches no further back than its episode."""
        past = torch.cat([before[:, 1:, : self.convolved], inputs[..., : self.convolved]], dim=1)
        number = torch.cat([torch.zeros_like(episode[:, :1]).expand(-1, self.kernel - 1), episode], dim=1)
        length, total = inputs.shape[1], self.bias
        for k in range(self.kernel):
            here = (number[:, k : k + length] == episode)[..., None]
            total = total + torch.where(here, past[:, k : k + length] * self.taps[k], 0.0)
        return self.activate(total, inputs)

    def activate(
        self, convolved: Float[Tensor, "... C"], inputs: Float[Tensor, "... V"]
    ) -> tuple[Float[Tensor, "... H P"], Float[Tensor, "... S"], Float[Tensor, "... S"], Float[Tensor, "... H"]]:
        """Return x, B, C and dt."""
        x, b, c = F.silu(convolved).split((self.inner, self.state_dim, self.state_dim), dim=-1)
        return (
            x.unflatten(-1, (self.heads, self.head_dim)),
            b,
            c,
            F.softplus(inputs[..., self.convolved :] + self.step_bias),
        )

    def output_proj(
        self, y: Float[Tensor, "... H P"], x: Float[Tensor, "... H P"], gate: Float[Tensor, "... I"]
    ) -> Tensor:
        """Apply skip, gate, norm and output projection."""
        y = (y + self.skip[:, None] * x).flatten(-2)
        return self.out(self.norm(y * F.silu(gate)))


class Mamba(Core):
    """``layers`` pre-norm residual mixers on a stream of ``width``.

    A memory holds, of each layer, the convolution's ``window`` of inputs and the ``state``. Of a sequence only the
    inputs are kept: states are [H, P, S] numbers a step, so :meth:`starts` makes again those that are asked for.
    """

    @checked
    def __init__(
        self,
        in_dim: int,
        width: Annotated[Count, "channels of the residual stream"],
        layers: Annotated[Count, "mixers"],
        expand: Annotated[Count, "channels of a mixer, in units of the width"] = 2,
        head_dim: Annotated[Count, "channels of a head"] = 32,
        state_dim: Annotated[Count, "numbers a channel"] = 16,
        kernel: Annotated[Count, "steps the convolution reaches"] = 4,
        decay_range: Annotated[
            Sequence[Annotated[int | float, MoreThan(0)]],
            Ascending(2),
            "range of -A at the start; times steps of 0.001 to 0.1, what is forgotten at each",
        ] = (1.0, 16.0),
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        self.out_dim = width
        self.embed = init_linear_(nn.Linear(in_dim, width), style=style)
        self.norms = nn.ModuleList(style.make_norm(width) for _ in range(layers))
        self.mixers = nn.ModuleList(
            Mixer(width, expand, head_dim, state_dim, kernel, decay_range, style) for _ in range(layers)
        )
        self.norm = style.make_norm(width)

    @override
    def initial(self, n: int) -> Memory:
        zeros, memory = self.norm.weight.new_zeros, {}
        for i, mixer in enumerate(self.mixers):
            memory[f"window{i}"] = zeros(n, mixer.kernel, mixer.inputs)
            memory[f"state{i}"] = zeros(n, mixer.heads, mixer.head_dim, mixer.state_dim)
        return memory

    @override
    def entry(self, memory: Memory) -> Memory:
        return {f"inputs{i}": memory[f"window{i}"][:, -1] for i in range(len(self.mixers))}

    @override
    def step(
        self, x: Float[Tensor, "N X"], reset: Bool[Tensor, " N"] | None, memory: Memory
    ) -> tuple[Float[Tensor, "N D"], Memory]:
        u, after = self.embed(x), {}
        for i, (norm, mixer) in enumerate(zip(self.norms, self.mixers, strict=True)):
            window, state = memory[f"window{i}"], memory[f"state{i}"]
            if reset is not None:
                window = torch.where(reset[:, None, None], 0.0, window)
                state = torch.where(reset[:, None, None, None], 0.0, state)
            gate, inputs = mixer.project(norm(u))
            window = torch.cat([window[:, 1:], inputs[:, None]], dim=1)
            convolved = (window[..., : mixer.convolved] * mixer.taps).sum(1) + mixer.bias
            v, b, c, dt = mixer.activate(convolved, inputs)
            decay = torch.exp(-mixer.log_rate.exp() * dt)[..., None, None]
            with torch.autocast(x.device.type, enabled=False):
                # All heads share B and C: one outer product a row, and one matrix-vector product.
                driven = (dt[..., None] * v).flatten(1)[..., None]
                flat = torch.baddbmm((decay * state).flatten(1, 2), driven, b[:, None])
                state, y = flat.view_as(state), (flat @ c[..., None]).view_as(v)
            u = u + mixer.output_proj(y, v, gate)
            after |= {f"window{i}": window, f"state{i}": state}
        return wide(self.norm(u)), after

    def scan(
        self, x: Float[Tensor, "B T X"], reset: Bool[Tensor, "B T"], memory: Memory
    ) -> tuple[Float[Tensor, "B T D"], Memory, Memory]:
        """Scan in chunks, or fused where there is a kernel with the same numbers."""
        u, entries, after, episode = self.embed(x), {}, {}, reset.long().cumsum(1)
        sizes = (getattr(self.mixers[0], key) for key in ("heads", "head_dim", "state_dim"))
        run = fused_scan if fused_is_exact(x.device, *sizes) else chunked_scan
        for i, (norm, mixer) in enumerate(zip(self.norms, self.mixers, strict=True)):
            gate, inputs = mixer.project(norm(u))
            v, b, c, dt = mixer.convolve(inputs, memory[f"window{i}"], episode)
            with torch.autocast(x.device.type, enabled=False):
                y, after[f"state{i}"] = run(
                    v * dt[..., None], -mixer.log_rate.exp() * dt, b, c, episode, memory[f"state{i}"]
                )
            u = u + mixer.output_proj(y, v, gate)
            entries[f"inputs{i}"] = inputs
        windows = {key: value[:, -1] for key, value in self._windows(entries, episode, memory, 1).items()}
        return wide(self.norm(u)), entries, after | windows

    def starts(self, entries: Memory, reset: Bool[Tensor, "B T"], before: Memory, last: int) -> Memory:
        """Return every state of the ``last`` steps. All steps before are scanned in chunks, for their end alone."""
        episode = reset.long().cumsum(1)
        rows = {key: value.flatten(0, 1) for key, value in self._windows(entries, episode, before, last).items()}
        for i, mixer in enumerate(self.mixers):
            v, b, c, dt = mixer.convolve(entries[f"inputs{i}"], before[f"window{i}"], episode)
            log_decay, v, state = -mixer.log_rate.exp() * dt, v * dt[..., None], before[f"state{i}"]
            if last < reset.shape[1]:
                parts = (part[:, :-last] for part in (v, log_decay, b, c, episode))
                with torch.autocast(reset.device.type, enabled=False):
                    state = chunked_scan(*parts, state)[1]
            decay = torch.where(reset[..., None], 0.0, log_decay.exp())[:, -last:, :, None, None]
            driven = v[:, -last:, ..., None] * b[:, -last:, None, None]
            rows[f"state{i}"] = linear_scan(decay, driven, state).flatten(0, 1)
        return {key: rows[key] for key in before}

    def _windows(self, entries: Memory, episode: Int64[Tensor, "B T"], before: Memory, last: int) -> Memory:
        """The convolutions' windows after each of the ``last`` steps [B, K, kernel, V], empty before an episode."""
        windows = {}
        for i, mixer in enumerate(self.mixers):
            past = torch.cat([before[f"window{i}"], entries[f"inputs{i}"]], dim=1)[:, -last - mixer.kernel + 1 :]
            number = F.pad(episode, (mixer.kernel, 0))[:, -last - mixer.kernel + 1 :]
            mine = number.unfold(1, mixer.kernel, 1) == episode[:, -last:, None]
            windows[f"window{i}"] = torch.where(mine[..., None], past.unfold(1, mixer.kernel, 1).mT, 0.0)
        return windows
