"""Several networks of one shape, computed together."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from worldmodels.nets.layers import DEFAULT_STYLE, NetStyle, trunc_normal_


class EnsembleLinear(nn.Module):
    """One linear map for each of ``members``, computed as one batched product."""

    def __init__(
        self, members: int, in_dim: int, out_dim: int, scale: float = 1.0, style: NetStyle = DEFAULT_STYLE
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, in_dim, out_dim))
        self.bias = nn.Parameter(torch.zeros(members, out_dim))
        with torch.no_grad():
            for weight in self.weight:
                trunc_normal_(weight.T, scale, style)

    def forward(self, x: Float[Tensor, "Q N I"], members: slice | Tensor) -> Float[Tensor, "Q N O"]:
        """Apply each map of those named to its own rows. A slice copies no weights."""
        return torch.baddbmm(self.bias[members].unsqueeze(1), x, self.weight[members])


class EnsembleNorm(nn.Module):
    """The style's norm with a gain and, but for ``rms``, a shift for each of ``members``."""

    def __init__(self, members: int, dim: int, style: NetStyle = DEFAULT_STYLE) -> None:
        super().__init__()
        self.eps = style.norm_eps
        self.gain = nn.Parameter(torch.ones(members, dim))
        self.shift = nn.Parameter(torch.zeros(members, dim)) if style.norm == "layer" else None

    def forward(self, x: Float[Tensor, "Q N I"], members: slice | Tensor) -> Float[Tensor, "Q N I"]:
        """Normalise every row, then apply its member's gain and shift."""
        gain = self.gain[members].unsqueeze(1)
        if self.shift is None:
            return rms_norm(x, x.shape[-1:], eps=self.eps) * gain
        return torch.addcmul(self.shift[members].unsqueeze(1), layer_norm(x, x.shape[-1:], eps=self.eps), gain)


class EnsembleMLP(nn.Module):
    """``members`` networks as :class:`MLP` makes them, with an output that begins at zero. Computed together.

    Which of them are computed is a tensor's affair, so that a compiled update is one graph whichever are drawn.

    Args:
        dropout: after the first layer's weights, while learning.
    """

    def __init__(
        self,
        members: int,
        in_dim: int,
        units: int,
        layers: int,
        out_dim: int,
        dropout: float,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        self.members = members
        dims = [in_dim] + [units] * layers
        self.hidden = nn.ModuleList(EnsembleLinear(members, a, b, style=style) for a, b in itertools.pairwise(dims))
        self.norms = nn.ModuleList(EnsembleNorm(members, dim, style) for dim in dims[1:])
        self.act = style.make_act()
        self.out = EnsembleLinear(members, dims[-1], out_dim, 0.0, style)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "... I"], members: slice | Tensor) -> Float[Tensor, "Q ... O"]:
        """Return outputs of the members that a slice or a tensor of indices [Q] names, all of the same input."""
        count, out_dim = self.out.bias[members].shape
        h = x.reshape(-1, x.shape[-1]).expand(count, -1, -1)
        return self.each(h, members).reshape(count, *x.shape[:-1], out_dim)

    def each(self, h: Float[Tensor, "Q N I"], members: slice | Tensor) -> Float[Tensor, "Q N O"]:
        """Return outputs of members, each of an input of its own. One may be named several times."""
        for i, (linear, norm) in enumerate(zip(self.hidden, self.norms, strict=True)):
            h = linear(h, members)
            h = self.act(norm(self.dropout(h) if i == 0 else h, members))
        return self.out(h, members)
