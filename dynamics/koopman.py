"""Linear latent dynamics with actions: a diagonal Koopman operator (Mondal et al. 2024).

"Efficient Dynamics Modeling in Interactive Environments with Koopman Theory".
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn
from typing_extensions import override

from dynamics.base import Core, Memory
from dynamics.scan import linear_scan, reset_decay
from worldmodels.common.options import Count, checked
from worldmodels.common.precision import wide
from worldmodels.nets.layers import DEFAULT_STYLE, NetStyle, init_linear_

SLOWEST, FASTEST = 0.999, 0.5
"""Moduli of the eigenvalues at the start, spread log-uniformly in 1 - |lambda|: memories of one to a thousand steps.

Orvieto et al. 2023 draw |lambda|^2 and angles uniformly (lemma 3.2). Angles are pi u^2 here: most of them are slow."""


class Koopman(Core):
    """``g_t = K g_{t-1} + L x_t``, K diagonal and complex. The output is g itself, real beside imaginary parts.

    All that is not linear in time happens outside, in the maps into and out of the latent: the paper's idea that a
    lifted state moves linearly under actions. Parameters are those of Orvieto et al. 2023, not the paper's: eigenvalues
    ``exp(-exp(rate) + i frequency)`` stay inside the unit circle whatever is learned (section 3.3), and inputs are
    scaled by ``sqrt(1 - |lambda|^2)``, which keeps slow ones from growing (eq. 7, there learned from this start).
    """

    long_memory = True

    @checked
    def __init__(
        self, in_dim: int, state_dim: Annotated[Count, "complex numbers"], style: NetStyle = DEFAULT_STYLE
    ) -> None:
        super().__init__()
        self.out_dim = 2 * state_dim
        spread = torch.linspace(math.log(1 - SLOWEST), math.log(1 - FASTEST), state_dim)
        self.rate = nn.Parameter(torch.log(-torch.log(1 - spread.exp())))
        self.frequency = nn.Parameter(math.pi * torch.rand(state_dim).square())
        self.in_proj = init_linear_(nn.Linear(in_dim, 2 * state_dim, bias=False), style=style)

    @override
    def initial(self, n: int) -> Memory:
        return {"observables": torch.zeros(n, self.out_dim // 2, dtype=torch.cfloat, device=self.rate.device)}

    @override
    def step(
        self, x: Float[Tensor, "N X"], reset: Bool[Tensor, " N"] | None, memory: Memory
    ) -> tuple[Float[Tensor, "N D"], Memory]:
        decay, driven = self._linear(x)
        kept = decay if reset is None else reset_decay(decay, reset[:, None])[:, 0]
        state = kept * memory["observables"] + driven
        return self._output(state), {"observables": state}

    @override
    def scan(
        self, x: Float[Tensor, "B T X"], reset: Bool[Tensor, "B T"], memory: Memory
    ) -> tuple[Float[Tensor, "B T D"], Memory, Memory]:
        decay, driven = self._linear(x)
        states = linear_scan(reset_decay(decay, reset), driven, memory["observables"])
        return self._output(states), {"observables": states}, {"observables": states[:, -1]}

    def _linear(self, x: Float[Tensor, "... X"]) -> tuple[Complex[Tensor, " P"], Complex[Tensor, "... P"]]:
        """The eigenvalues, and L x."""
        rate = self.rate.exp()
        scale = torch.sqrt(-torch.expm1(-2 * rate))
        driven = torch.view_as_complex(wide(F.linear(x, self.in_proj.weight)).unflatten(-1, (-1, 2)))
        return torch.exp(torch.complex(-rate, self.frequency)), scale * driven

    def _output(self, state: Complex[Tensor, "... P"]) -> Float[Tensor, "... D"]:
        return torch.view_as_real(state).flatten(-2)
