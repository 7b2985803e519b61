"""The block GRU over a whole sequence by TorchRL's kernel, which keeps the memory on the chip between steps."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynamics.fused import apart
from worldmodels.nets.layers import BlockLinear, DenseNormAct
from worldmodels.nets.norms import RMSNorm

DEVICES = ("cuda",)
"""Devices that the kernel is for."""
ACTIVATIONS = (nn.SiLU, nn.ReLU)
"""Those that it has, of ours."""
KERNEL = "torchrl.modules.models._dreamer_v3_block_gru_triton"


def is_known(norm: nn.Module, act: nn.Module) -> bool:
    """Return whether the kernel has such a norm and activation: it is made for DreamerV3's."""
    return isinstance(norm, RMSNorm) and isinstance(act, ACTIVATIONS)


def fused_scan(
    x: Float[Tensor, "B T X"],
    reset: Bool[Tensor, "B T"],
    deter: Float[Tensor, "B D"],
    mix: DenseNormAct,
    inner: BlockLinear,
    norm: RMSNorm,
    gates: BlockLinear,
) -> Float[Tensor, "B T D"]:
    """Return the memory after every step, from the layers of :class:`~dynamics.gru.GRU`.

    The kernel wants inputs as wide as what blocks share. The narrower of both is padded, where weights are zero.
    RMSNorm divides by all that there are: so what is padded is multiplied by the root of the ratio, and the scale of
    its norm divided by it.
    """
    linear, mix_norm, act = mix
    hidden, width, blocks = linear.out_features, max(linear.out_features, x.shape[-1]), inner.weight.shape[0]
    ratio = math.sqrt(width / hidden)
    more = width - hidden
    shared = inner.shared.mT.unflatten(1, (blocks, -1)).transpose(0, 1)  # blocks, hidden + X, D / blocks
    own = [F.pad(part, (0, 0, 0, width - part.shape[1])) for part in (shared[:, hidden:], shared[:, :hidden])]
    with torch.autocast(x.device.type, enabled=False):
        return importlib.import_module(KERNEL).dreamer_v3_block_gru_triton(
            F.pad(x, (0, width - x.shape[-1])),
            deter,
            reset,
            F.pad(linear.weight * ratio, (0, 0, 0, more)),
            F.pad(linear.bias * ratio, (0, more)),
            F.pad(mix_norm.weight / ratio, (0, more)),
            [torch.cat([inner.weight, *own], dim=1), inner.bias, norm.weight],
            gates.weight,
            gates.bias,
            act,
            norm.eps,
            -1.0,
            blocks,
            1,
        )[0]


Scan = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Memories [B, T, D] from inputs, resets and the memory before."""


def difference(scans: tuple[Scan, Scan], core: nn.Module, in_dim: int, deter: int) -> float:
    """Return the largest relative difference of two scans of a core, in outputs and gradients, on made-up inputs."""
    device = next(core.parameters()).device
    generator = torch.Generator().manual_seed(0)
    x, memory = (torch.randn(*shape, generator=generator).to(device) for shape in ((3, 20, in_dim), (3, deter)))
    reset = (torch.rand(3, 20, generator=generator) < 0.2).to(device)
    found = []
    for scan in scans:
        leaves = [x.clone().requires_grad_(), memory.clone().requires_grad_()]
        out = scan(leaves[0], reset, leaves[1])
        found.append((out, *torch.autograd.grad(out.square().sum(), [*leaves, *core.parameters()])))
    return apart(*found)
