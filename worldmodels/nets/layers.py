"""Layers that networks share: initialisation as in Dreamer, hidden layers, block-diagonal maps."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from worldmodels.common.options import MoreThan, checked
from worldmodels.nets.activations import ACTIVATIONS
from worldmodels.nets.blocks import block_product
from worldmodels.nets.deferred import Rule, deferrable
from worldmodels.nets.norms import ChannelRMSNorm, RMSNorm


@checked
@dataclass(frozen=True)
class NetStyle:
    """Building blocks of networks, whatever their sizes. An architecture that names a layer itself keeps it."""

    norm: Annotated[Literal["layer", "rms"], "of hidden layers"] = "layer"
    """``layer`` or ``rms``.

    LayerNorm stands where DreamerV3's later versions have RMSNorm: it has a fused kernel on every device, and of a
    plan's time on a CPU the small kernels of an RMSNorm took a fifth.
    """
    act: Annotated[Literal["silu", "mish", "gelu", "elu", "relu"], "of hidden layers"] = "silu"
    """One of :data:`ACTIVATIONS`."""
    init_std: Annotated[float | None, MoreThan(0), "deviation of first weights"] = None
    """Deviation of a linear map's first weights, instead of one that follows from its inputs; zeros stay zeros.

    In front of a norm small weights compute what large ones do, and learn faster.
    """
    norm_eps: Annotated[float, MoreThan(0), "added to the variance"] = 1e-5
    block_fan: Annotated[Literal["block", "all"], "inputs that first weights of a block-diagonal map count"] = "block"
    """``block``: those of one block, as it reads no others. ``all``: of all blocks, as DreamerV3's code counts them."""

    def make_norm(self, dim: int) -> nn.Module:
        """Build the norm over the last axis."""
        return (nn.LayerNorm if self.norm == "layer" else RMSNorm)(dim, eps=self.norm_eps)

    def make_image_norm(self, channels: int) -> nn.Module:
        """Build the norm of feature maps [N, C, S, S]: over the whole image, or for ``rms`` over channels."""
        if self.norm == "layer":
            return nn.GroupNorm(1, channels, eps=self.norm_eps)
        return ChannelRMSNorm(channels, eps=self.norm_eps)

    def make_act(self) -> nn.Module:
        """Build the activation of the style."""
        return ACTIVATIONS[self.act]()


DEFAULT_STYLE = NetStyle()


class BlockLinear(nn.Module):
    """A linear map that is block-diagonal: ``blocks`` separate maps side by side (DreamerV3's block GRU).

    Each may read ``shared_dim`` numbers beside its own, the same for all, which is one dense map for all of them.
    """

    one_tensor = (("weight", "shared"),)

    def __init__(
        self, in_dim: int, out_dim: int, blocks: int, shared_dim: int = 0, style: NetStyle = DEFAULT_STYLE
    ) -> None:
        super().__init__()
        if in_dim % blocks or out_dim % blocks:
            raise ValueError(f"{in_dim} inputs and {out_dim} outputs do not divide into {blocks} blocks")
        self.weight = nn.Parameter(torch.empty(blocks, in_dim // blocks, out_dim // blocks))
        self.shared = nn.Parameter(torch.empty(out_dim, shared_dim)) if shared_dim else None
        self.bias = nn.Parameter(torch.zeros(out_dim))
        fan_in = (in_dim // blocks + shared_dim) * (blocks if style.block_fan == "all" else 1)
        with torch.no_grad():
            for block in self.weight:
                trunc_normal_(block.T, 1.0, style, fan_in)
            if self.shared is not None:
                trunc_normal_(self.shared, 1.0, style, fan_in)

    def forward(self, x: Float[Tensor, "N I"], shared: Float[Tensor, "N S"] | None = None) -> Float[Tensor, "N O"]:
        """Map each block of every row. Blocks are consecutive ranges of the axis."""
        others = self.bias[None] if self.shared is None else linear(shared, self.shared, self.bias)
        return block_product(others, x, self.weight)


linear = deferrable(Rule(0, {1: lambda x, grad, _: grad.mT @ x, 2: lambda x, grad, _: grad.sum(0)}))(F.linear)


class Linear(nn.Linear):
    """A linear map whose gradients can be taken for all steps of a loop at once."""

    @override
    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return linear(x, self.weight, self.bias)


class DenseNormAct(nn.Sequential):
    """Linear, norm, activation: the one hidden layer everything here is made of."""

    def __init__(self, in_dim: int, out_dim: int, style: NetStyle = DEFAULT_STYLE) -> None:
        super().__init__(init_linear_(Linear(in_dim, out_dim), style=style), style.make_norm(out_dim), style.make_act())


class MLP(nn.Sequential):
    """``layers`` hidden layers of ``units``.

    Where ``out_dim`` is given, a linear output scaled by ``out_scale`` follows.
    """

    def __init__(
        self,
        in_dim: int,
        units: int,
        layers: int,
        out_dim: int | None = None,
        out_scale: float = 1.0,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        dims = [in_dim] + [units] * layers
        modules: list[nn.Module] = [DenseNormAct(a, b, style) for a, b in itertools.pairwise(dims)]
        if out_dim is not None:
            modules.append(init_linear_(Linear(dims[-1], out_dim), out_scale, style))
        super().__init__(*modules)
        self.out_dim = dims[-1] if out_dim is None else out_dim


def trunc_normal_(
    weight: Tensor, scale: float = 1.0, style: NetStyle = DEFAULT_STYLE, fan_in: int | None = None
) -> None:
    """Draw from a normal cut at two, with deviation ``scale / sqrt(fan_in)``, in place. ``weight`` is [out, in, ...].

    ``fan_in`` counts more inputs than the weight has where others are added to what it makes of them. The factor 0.8796
    is the standard deviation of a unit normal cut at two. A matrix is a plain normal of the deviation of a style that
    names one, as TD-MPC2's are, unless it is to be zero.
    """
    std = scale / math.sqrt(fan_in or weight[0].numel()) / 0.87962566
    if scale == 0:
        nn.init.zeros_(weight)
    elif style.init_std is not None and weight.ndim == 2:
        nn.init.normal_(weight, std=style.init_std)
    else:
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def init_linear_(
    layer: nn.Module, scale: float = 1.0, style: NetStyle = DEFAULT_STYLE, fan_in: int | None = None
) -> nn.Module:
    """Initialise a linear or convolutional layer with :func:`trunc_normal_` and a zero bias. Return it."""
    with torch.no_grad():
        if isinstance(layer, nn.ConvTranspose2d):  # its weight is [in, out, k, k], and stride^2 inputs overlap
            trunc_normal_(layer.weight.transpose(0, 1), scale * math.prod(layer.stride) ** 0.5, style)
        else:
            trunc_normal_(layer.weight, scale, style, fan_in)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layer


def tensors_of(module: nn.Module) -> list[list[nn.Parameter]]:
    """Return parameters by the tensor of the published architecture that they are a part of: mostly one by one.

    Modules that keep such a tensor in several parameters, which is faster, name these in ``one_tensor``.
    """
    found = {id(parameter): [parameter] for parameter in module.parameters()}
    for part in module.modules():
        for names in getattr(part, "one_tensor", ()):
            owned = dict(part.named_parameters())
            first, *others = [owned[name] for name in names if name in owned]
            for other in others:
                found[id(first)] += found.pop(id(other))
    return list(found.values())


def call_frozen(module: nn.Module, *args: Any) -> Any:
    """``module(*args)`` with gradients that reach the arguments but no parameter of the module."""
    return functional_call(module, {name: p.detach() for name, p in module.named_parameters()}, args)
