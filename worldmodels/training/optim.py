"""Gradient clipping, DreamerV3's LaProp, warm-up and the averaging of weights. Other optimisers come from libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from worldmodels.common.host import send
from worldmodels.common.options import AtLeast, Between, MoreThan, checked

SMALLEST_NORM = 1e-3
"""Norm that weights count as having at least, so that those that begin at zero can move."""


Tensors = Sequence[Sequence[nn.Parameter]]
"""Parameters by the tensor that they are a part of (:func:`worldmodels.nets.layers.tensors_of`)."""


class NormClip:
    """Scale all gradients down together where their total norm exceeds ``max_norm``."""

    @checked
    def __init__(self, max_norm: Annotated[float, MoreThan(0), "norm of all gradients together"]) -> None:
        self.max_norm = max_norm

    def __call__(self, tensors: Tensors) -> None:
        """Clip all gradients in place."""
        torch.nn.utils.clip_grad_norm_([parameter for parts in tensors for parameter in parts], self.max_norm)


class AdaptiveClip:
    """Bound each tensor's gradient by ``factor`` times the norm of its weights, as DreamerV3 does.

    ``g / max(1, |g| / (factor max(1e-3, |w|)))``. Brock et al. (2021) bound the units of a tensor apart.
    """

    @checked
    def __init__(
        self, factor: Annotated[float, MoreThan(0), "norm of a tensor's gradient, in norms of its weights"] = 0.3
    ) -> None:
        self.factor = factor

    @torch.no_grad()
    def __call__(self, tensors: Tensors) -> None:
        """Clip each tensor's gradient in place."""
        weights = [parameter for parts in tensors for parameter in parts]
        gradients = [weight.grad for weight in weights]
        owner = send(torch.tensor([i for i, parts in enumerate(tensors) for _ in parts]), weights[0].device)
        allowed = _joint_norms(weights, owner, len(tensors)).clamp(min=SMALLEST_NORM)
        shrink = (_joint_norms(gradients, owner, len(tensors)) / (self.factor * allowed)).clamp(min=1.0)
        torch._foreach_div_(gradients, list(shrink[owner].unbind()))


def _joint_norms(parts: list[Tensor], owner: Tensor, count: int) -> Tensor:
    """Return the norms of ``count`` tensors, of which ``parts[i]`` is a part of tensor ``owner[i]``."""
    squares = torch.stack(torch._foreach_norm(parts)).square()
    return squares.new_zeros(count).index_add_(0, owner, squares).sqrt()


class LaProp(torch.optim.Optimizer):
    """Average gradients after they were scaled by their size (Ziyin et al. 2020), as DreamerV3 does.

    ``nu = b2 nu + (1 - b2) g^2``, ``mu = b1 mu + (1 - b1) g / (sqrt(nu / (1 - b2^k)) + eps)``,
    ``w -= lr mu / (1 - b1^k)``. Nothing is added under the root, so that gradients of any size move weights alike.
    """

    @checked
    def __init__(
        self,
        params: Any,
        lr: Annotated[float, AtLeast(0), "learning rate"],
        betas: Annotated[
            Sequence[Annotated[float, Between(0, 1, "high")]],
            "shares that the averages of scaled gradients and of squares keep",
        ] = (0.9, 0.999),
        eps: Annotated[float, MoreThan(0), "added to the root"] = 1e-20,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move every weight that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            self._move(group, [weight for weight in group["params"] if weight.grad is not None])
        return loss

    def _move(self, group: dict[str, Any], weights: list[nn.Parameter]) -> None:
        if not weights:
            return
        group["step"] += 1
        (keep, keep_squares), step = group["betas"], group["step"]
        gradients = [weight.grad for weight in weights]
        states = [self._state(weight) for weight in weights]
        squares, averages = ([state[key] for state in states] for key in ("squares", "average"))
        torch._foreach_mul_(squares, keep_squares)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - keep_squares)
        scale = torch._foreach_sqrt(torch._foreach_div(squares, 1 - keep_squares**step))
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_lerp_(averages, torch._foreach_div(gradients, scale), 1 - keep)
        torch._foreach_add_(weights, averages, alpha=-group["lr"] / (1 - keep**step))

    def _state(self, weight: nn.Parameter) -> dict[str, Tensor]:
        state = self.state[weight]
        if not state:
            state["squares"], state["average"] = torch.zeros_like(weight), torch.zeros_like(weight)
        return state


def warmed_up(updates: int, done: int) -> float:
    """Return the share of the learning rate after ``done`` updates of a linear warm-up: 0 for the first of them."""
    return min(1.0, done / updates) if updates else 1.0
