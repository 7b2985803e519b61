"""Diagonal state spaces that can be reset: S5 (Smith et al. 2023) and S4D (Gu et al. 2022) in a deep residual core.

The state is x' = Lambda x + B u, y = Re(C x) + D u in continuous time, Lambda diagonal and complex. A reset is a decay
of zero in the scan, which gives the states of the resettable S5 of Lu et al. 2023, section 3.1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn
from typing_extensions import override

from dynamics.base import Core, Memory
from dynamics.chunked import K, chunked_scan
from dynamics.scan import linear_scan, reset_decay
from worldmodels.common.options import Count, checked
from worldmodels.common.precision import wide
from worldmodels.nets.layers import DEFAULT_STYLE, NetStyle, init_linear_

LONG = 128
"""Steps from which on chunks are faster than all states."""
FASTEST, SLOWEST = 1e-1, 1e-3
"""Step sizes are spread log-uniformly between these at the start: memories of 20 to 2,000 steps."""


def hippo_eigenvalues(size: int) -> tuple[Complex[Tensor, " P"], Complex[Tensor, "P2 P"]]:
    """Eigenvalues with positive imaginary part, and their eigenvectors, of the normal part of HiPPO-LegS.

    For 2 ``size`` real dimensions: A_nm = -1/2 on the diagonal, and off it half of HiPPO's (2n+1)^1/2 (2m+1)^1/2 with
    opposite signs on either side. The other half are the conjugates.
    """
    root = torch.sqrt(2 * torch.arange(2 * size, dtype=torch.float64) + 1)
    skew = 0.5 * torch.triu(root[:, None] * root, diagonal=1)
    frequencies, vectors = torch.linalg.eigh(-1j * (skew - skew.T))
    return torch.complex(torch.full((size,), -0.5, dtype=torch.float64), frequencies[size:]), vectors[:, size:]


class StateSpace(nn.Module, ABC):
    """One layer's state space: subclasses say how channels [..., width] enter a state [..., *shape] and leave it.

    ``rate`` and ``frequency`` are the continuous Lambda, ``log_step`` the step size Delta. Zero-order hold makes
    Lambda_bar = exp(Lambda Delta) and scales inputs by (Lambda_bar - 1) / Lambda (S5, eq. 6).
    """

    def __init__(self, eigenvalues: Complex[Tensor, " P"], steps: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.shape = torch.broadcast_shapes(eigenvalues.shape, steps)
        self.rate = nn.Parameter(torch.log(-eigenvalues.real).to(torch.get_default_dtype()))
        self.frequency = nn.Parameter(eigenvalues.imag.to(torch.get_default_dtype()))
        self.log_step = nn.Parameter(math.log(SLOWEST) + torch.rand(steps) * math.log(FASTEST / SLOWEST))
        self.skip = nn.Parameter(torch.randn(width))

    def discretize(self) -> tuple[Complex[Tensor, "*S"], Complex[Tensor, "*S"]]:
        """Return Lambda_bar and the scale of inputs."""
        log_decay, scale = self.log_discretize()
        return log_decay.exp(), scale

    def log_discretize(self) -> tuple[Complex[Tensor, "*S"], Complex[Tensor, "*S"]]:
        """Return the logarithm of Lambda_bar and the scale of inputs."""
        eigenvalues = torch.complex(-self.rate.exp(), self.frequency)
        log_decay = eigenvalues * self.log_step.exp()
        return log_decay, (log_decay.exp() - 1) / eigenvalues

    def scan(
        self, v: Float[Tensor, "B T W"], reset: Bool[Tensor, "B T"], state: Complex[Tensor, "B *S"]
    ) -> tuple[Float[Tensor, "B T W"], Memory, Complex[Tensor, "B *S"]]:
        """Return C x of all steps, what their :meth:`states` follow from, and the last state. Here: all states."""
        states = self.all_states(v, reset, state)
        return self.output_proj(states), {"state": states}, states[:, -1]

    def states(
        self, entries: Memory, reset: Bool[Tensor, "B T"], before: Complex[Tensor, "B *S"], last: int
    ) -> Complex[Tensor, "B K *S"]:
        """Return the states of the ``last`` steps from the entries of a :meth:`scan`."""
        return entries["state"][:, -last:]

    def all_states(
        self, v: Float[Tensor, "B T W"], reset: Bool[Tensor, "B T"], state: Complex[Tensor, "B *S"]
    ) -> Complex[Tensor, "B T *S"]:
        """Return the states after each input."""
        decay, scale = self.discretize()
        return linear_scan(reset_decay(decay, reset), scale * self.input_proj(v), state)

    @abstractmethod
    def input_proj(self, u: Float[Tensor, "... W"]) -> Complex[Tensor, "... *S"]:
        """Return B u."""

    @abstractmethod
    def output_proj(self, state: Complex[Tensor, "... *S"]) -> Float[Tensor, "... W"]:
        """Return twice Re(C x), for the conjugate half that is not kept."""


class S5(StateSpace):
    """All channels share one state of ``state_dim`` complex numbers: many inputs, many outputs.

    It begins with one block of HiPPO, where the paper has several. B and C are drawn real, of variances 1 / width and
    1 / (2 state_dim), and turned into its eigenvectors. The authors' code draws B by the number of states, C complex.
    """

    @checked
    def __init__(self, width: int, state_dim: Annotated[Count, "complex numbers in a layer"]) -> None:
        eigenvalues, vectors = hippo_eigenvalues(state_dim)
        super().__init__(eigenvalues, (state_dim,), width)
        in_proj = vectors.mH @ torch.randn(2 * state_dim, width, dtype=torch.double).cdouble() / math.sqrt(width)
        out = torch.randn(width, 2 * state_dim, dtype=torch.double).cdouble() @ vectors / math.sqrt(2 * state_dim)
        self.in_proj = nn.Parameter(torch.view_as_real(in_proj.cfloat()).transpose(1, 2).flatten(0, 1).contiguous())
        self.out = nn.Parameter(torch.view_as_real(out.conj().cfloat()).flatten(1))

    def input_proj(self, u: Float[Tensor, "... W"]) -> Complex[Tensor, "... P"]:
        """Map by one real matrix product. Real and imaginary parts are neighbours in memory."""
        return torch.view_as_complex(wide(F.linear(u, self.in_proj)).unflatten(-1, (-1, 2)))

    def output_proj(self, state: Complex[Tensor, "... P"]) -> Float[Tensor, "... W"]:
        """Map by one real product: Re(C x) = Re C Re x - Im C Im x, whose signs are in the matrix."""
        return 2 * F.linear(torch.view_as_real(state).flatten(-2), self.out)


class S4D(StateSpace):
    """Every channel has a state of its own of ``state_dim`` complex numbers: one input, one output each.

    Lambda begins as S4D-LegS. Channels share it, where each has its own in the paper. Step sizes and C are their own.
    """

    @checked
    def __init__(self, width: int, state_dim: Annotated[Count, "complex numbers in a channel"]) -> None:
        eigenvalues, _ = hippo_eigenvalues(state_dim)
        super().__init__(eigenvalues, (width, 1), width)
        self.out = nn.Parameter(torch.randn(width, state_dim, 2) / math.sqrt(2))

    def input_proj(self, u: Float[Tensor, "... W"]) -> Complex[Tensor, "... W P"]:
        """Repeat u along the state. B is 1: only its product with C matters."""
        u = wide(u)
        return torch.complex(u, torch.zeros_like(u))[..., None].expand(*u.shape, self.shape[-1])

    def output_proj(self, state: Complex[Tensor, "... W P"]) -> Float[Tensor, "... W"]:
        """Sum over each channel's own state."""
        return 2 * (state * torch.view_as_complex(self.out)).real.sum(-1)

    @override
    def scan(
        self, v: Float[Tensor, "B T W"], reset: Bool[Tensor, "B T"], state: Complex[Tensor, "B W P"]
    ) -> tuple[Float[Tensor, "B T W"], Memory, Complex[Tensor, "B W P"]]:
        whole = v.shape[1] // K * K
        if v.shape[1] < LONG or torch.compiler.is_compiling():
            return super().scan(v, reset, state)
        with torch.autocast(v.device.type, enabled=False):
            v, out = wide(v), torch.view_as_complex(self.out)
            y, ends = chunked_scan(*self.log_discretize(), out, v[:, :whole], reset[:, :whole], state)
        entries, state = {"input": v, "end": ends}, ends[:, -1]
        if whole < v.shape[1]:
            rest, _, state = super().scan(v[:, whole:], reset[:, whole:], state)
            y = torch.cat([y, rest], dim=1)
        return y, entries, state

    @override
    def states(
        self, entries: Memory, reset: Bool[Tensor, "B T"], before: Complex[Tensor, "B W P"], last: int
    ) -> Complex[Tensor, "B K W P"]:
        if "state" in entries:
            return super().states(entries, reset, before, last)
        chunk = (reset.shape[1] - last) // K
        begin = entries["end"][:, chunk - 1] if chunk else before
        return self.all_states(entries["input"][:, chunk * K :], reset[:, chunk * K :], begin)[:, -last:]


class Block(nn.Module):
    """Pre-norm, state space, GELU, gated linear unit, residual, as S4's published layers.

    S5's own gate y by a single matrix: y * sigmoid(W y).
    """

    def __init__(self, width: int, space: Callable[..., StateSpace], style: NetStyle = DEFAULT_STYLE) -> None:
        super().__init__()
        self.norm = style.make_norm(width)
        self.space = space(width=width)
        self.gate = init_linear_(nn.Linear(width, 2 * width), style=style)

    def scan(
        self, u: Float[Tensor, "B T W"], reset: Bool[Tensor, "B T"], state: Complex[Tensor, "B *S"]
    ) -> tuple[Float[Tensor, "B T W"], Memory, Complex[Tensor, "B *S"]]:
        """Advance all steps at once. Also return entries and the last state."""
        v = self.norm(u)
        y, entries, last = self.space.scan(v, reset, state)
        return self._output_proj(u, v, y), entries, last

    def step(
        self, u: Float[Tensor, "N W"], reset: Bool[Tensor, " N"] | None, state: Complex[Tensor, "N *S"]
    ) -> tuple[Float[Tensor, "N W"], Complex[Tensor, "N *S"]]:
        """Advance the same recurrence by one step."""
        decay, scale = self.space.discretize()
        v = self.norm(u)
        kept = decay if reset is None else reset_decay(decay, reset[:, None])[:, 0]
        state = kept * state + scale * self.space.input_proj(v)
        return self._output_proj(u, v, self.space.output_proj(state)), state

    def _output_proj(self, u: Tensor, v: Tensor, y: Tensor) -> Tensor:
        return u + F.glu(self.gate(F.gelu(y + self.space.skip * v)), dim=-1)


class SSM(Core):
    """``layers`` blocks on a residual stream of ``width``. The memory is each layer's complex state, in fp32."""

    long_memory = True

    @checked
    def __init__(
        self,
        in_dim: int,
        width: Annotated[Count, "channels of the residual stream"],
        layers: Annotated[Count, "blocks"],
        space: Annotated[Callable[..., StateSpace], "a layer's state space"],
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        self.out_dim = width
        self.embed = init_linear_(nn.Linear(in_dim, width), style=style)
        self.blocks = nn.ModuleList(Block(width, space, style) for _ in range(layers))
        self.norm = style.make_norm(width)

    @override
    def initial(self, n: int) -> Memory:
        zero = self.norm.weight.new_zeros((), dtype=torch.cfloat)
        return {f"state{i}": zero.expand(n, *block.space.shape).clone() for i, block in enumerate(self.blocks)}

    @override
    def step(
        self, x: Float[Tensor, "N X"], reset: Bool[Tensor, " N"] | None, memory: Memory
    ) -> tuple[Float[Tensor, "N D"], Memory]:
        u, states = self.embed(x), {}
        for i, block in enumerate(self.blocks):
            u, states[f"state{i}"] = block.step(u, reset, memory[f"state{i}"])
        return wide(self.norm(u)), states

    @override
    def scan(
        self, x: Float[Tensor, "B T X"], reset: Bool[Tensor, "B T"], memory: Memory
    ) -> tuple[Float[Tensor, "B T D"], Memory, Memory]:
        u, entries, last = self.embed(x), {}, {}
        for i, block in enumerate(self.blocks):
            u, own, last[f"state{i}"] = block.scan(u, reset, memory[f"state{i}"])
            entries |= {f"{i}.{name}": value for name, value in own.items()}
        return wide(self.norm(u)), entries, last

    @override
    def entry(self, memory: Memory) -> Memory:
        return {f"{i}.state": memory[f"state{i}"] for i in range(len(self.blocks))}

    @override
    def starts(self, entries: Memory, reset: Bool[Tensor, "B T"], before: Memory, last: int) -> Memory:
        found = {}
        for i, block in enumerate(self.blocks):
            own = {key.split(".")[1]: value for key, value in entries.items() if key.startswith(f"{i}.")}
            found[f"state{i}"] = block.space.states(own, reset, before[f"state{i}"], last).flatten(0, 1)
        return found
