"""All steps of a sequence at once: a linear recurrence, and how far each step is from the latest reset.

The recurrence takes O(T) work in O(log T) rounds, its gradient the same scan backwards.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

CHUNK = 16
"""Steps that are taken one after the other, for all chunks at once; 8 to 64 take the same time on two cores."""


def linear_scan(a: Shaped[Tensor, "B T *A"], b: Shaped[Tensor, "B T *D"], initial: Shaped[Tensor, "B *D"]) -> Tensor:
    """``h_t = a_t h_{t-1} + b_t`` [B, T, *D] with ``h_{-1} = initial``, elementwise, real or complex.

    After T, ``a`` may have axes of length 1 where ``b`` has longer ones. A reset before step t is ``a_t = 0``, which
    :func:`reset_decay` writes in. Doubling steps would do O(T log T) work. This is a scan after Blelloch (1990) with
    chunks for leaves: within chunks, over the ends of chunks by recursion, then what each end adds to the next chunk.
    """
    first = b[:, :1] + a[:, :1] * initial[:, None]
    return _Scan.apply(a, torch.cat([first, b[:, 1:]], dim=1))


def reset_decay(a: Shaped[Tensor, "*D"], reset: Bool[Tensor, "B T"]) -> Shaped[Tensor, "B T *D"]:
    """A decay that is the same at all steps, but zero at resets: nothing of what was before them is remembered."""
    return torch.where(reset.reshape(*reset.shape, *[1] * a.ndim), torch.zeros_like(a), a)


def since_reset(reset: Bool[Tensor, "B T"]) -> tuple[Int64[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Steps since the latest reset, or since the sequence began, and whether no reset has been yet."""
    index = torch.arange(reset.shape[1], device=reset.device)
    latest = torch.where(reset, index, -1).cummax(dim=1).values
    return index - latest.clamp(min=0), latest < 0


class _Scan(torch.autograd.Function):
    """Saves only ``a`` and ``h``: differentiating through the rounds would keep every one of them."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        h = _scan(a, b)
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """``g_t = grad_t + conj(a_{t+1}) g_{t+1}`` is the same recurrence from the end."""
        a, h = ctx.saved_tensors
        later = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1).conj()
        grad_b = _scan(later.flip(1), grad.flip(1)).flip(1)
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], dim=1)
        return (grad_b * before.conj()).sum_to_size(a.shape), grad_b


def _scan(a: Tensor, b: Tensor) -> Tensor:
    """The recurrence from zero."""
    length = b.shape[1]
    chunks = -(-length // CHUNK)
    size = CHUNK if chunks > 1 else length
    a, b = (_padded(x, chunks * size).unflatten(1, (chunks, size)) for x in (a, b))
    for t in range(1, size):
        b[:, :, t].addcmul_(a[:, :, t], b[:, :, t - 1])
        a[:, :, t].mul_(a[:, :, t - 1])
    if chunks > 1:
        ends = _scan(a[:, :, -1], b[:, :, -1])
        b[:, 1:].addcmul_(a[:, 1:], ends[:, :-1, None])
    return b.flatten(1, 2)[:, :length]


def _padded(x: Tensor, length: int) -> Tensor:
    """A copy with zero steps at the end."""
    out = x.new_zeros(x.shape[0], length, *x.shape[2:])
    out[:, : x.shape[1]] = x.resolve_conj()
    return out
