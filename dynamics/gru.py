"""The block GRU of DreamerV3 (Hafner et al. 2023, appendix B): the recurrent core of the RSSM."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from dynamics import gru_scan
from dynamics.base import Core, Memory
from dynamics.fused import is_exact
from worldmodels.common.options import Count, checked
from worldmodels.common.precision import wide, wide_dtype
from worldmodels.errors import OptionError
from worldmodels.nets.blocks import lerp
from worldmodels.nets.layers import DEFAULT_STYLE, BlockLinear, DenseNormAct, NetStyle


class GRU(Core):
    """A gated recurrent core whose recurrent weights are block-diagonal, so that a wide memory stays cheap.

    Blocks exchange information through a dense projection of the whole memory, which every block reads beside its own
    part. The memory is kept in fp32 under autocast, or small updates would be lost.
    """

    @checked
    def __init__(
        self,
        in_dim: int,
        deter: Annotated[Count, "numbers of the memory"],
        hidden: Annotated[Count, "units of what blocks share"],
        blocks: Annotated[Count, "parts of the memory with recurrent weights of their own"] = 8,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        if deter % blocks:
            raise OptionError("blocks", blocks, f"must divide a memory of {deter} numbers")
        self.out_dim = deter
        self.blocks = blocks
        self.mix = DenseNormAct(deter, hidden, style)
        self.inner = BlockLinear(deter, deter, blocks, hidden + in_dim, style)
        self.norm, self.act = style.make_norm(deter), style.make_act()
        self.gates = BlockLinear(deter, 3 * deter, blocks, style=style)

    @override
    def initial(self, n: int) -> Memory:
        weight = self.inner.weight
        return {"deter": weight.new_zeros(n, self.out_dim, dtype=wide_dtype(weight))}

    def step(
        self, x: Float[Tensor, "N X"], reset: Bool[Tensor, " N"] | None, memory: Memory
    ) -> tuple[Float[Tensor, "N D"], Memory]:
        """Apply one gated update. The update gate starts mostly closed (its logit is shifted by -1)."""
        deter = memory["deter"] if reset is None else memory["deter"].masked_fill(reset[:, None], 0.0)
        inner = self.inner(deter, torch.cat([self.mix(deter), x], dim=-1))
        gates = wide(self.gates(self.act(self.norm(inner)))).unflatten(-1, (self.blocks, 3, -1))
        reset_gate, candidate, update = gates.unbind(2)
        candidate = torch.tanh(torch.sigmoid(reset_gate) * candidate)
        deter = lerp(deter.unflatten(1, (self.blocks, -1)), candidate, torch.sigmoid(update - 1)).flatten(1)
        return deter, {"deter": deter}

    @override
    def scan(
        self, x: Float[Tensor, "B T X"], reset: Bool[Tensor, "B T"], memory: Memory
    ) -> tuple[Float[Tensor, "B T D"], Memory, Memory]:
        """Loop, or scan fused where there is a kernel with the same numbers (posterior ``obs`` on a GPU)."""
        if not self._fuses(x):
            return super().scan(x, reset, memory)
        deter = self._fused(x, reset, memory["deter"])
        return deter, {"deter": deter}, {"deter": deter[:, -1]}

    def _fuses(self, x: Tensor) -> bool:
        if x.device.type not in gru_scan.DEVICES or torch.compiler.is_compiling():
            return False
        if not gru_scan.is_known(self.norm, self.act):
            return False
        sizes = (x.shape[-1], self.out_dim, self.mix[0].out_features, self.blocks, type(self.act))
        measure = partial(gru_scan.difference, (self._loop, self._fused), self, x.shape[-1], self.out_dim)
        return is_exact("rssm", "torchrl", x.device, sizes, measure)

    def _loop(self, x: Tensor, reset: Tensor, deter: Tensor) -> Tensor:
        return super().scan(x, reset, {"deter": deter})[0]

    def _fused(self, x: Tensor, reset: Tensor, deter: Tensor) -> Tensor:
        return gru_scan.fused_scan(x, reset, deter, self.mix, self.inner, self.norm, self.gates)
