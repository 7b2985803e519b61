"""The scan of Mamba-2: in chunks, or by `mamba-ssm`'s kernel where it is installed and gives the same numbers."""

from __future__ import annotations

import importlib
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from dynamics.fused import apart, is_exact
from dynamics.scan import linear_scan

CHUNK = 32
"""Steps of a chunk: inside one the scan is a matrix product of CHUNK^2 work, between them a recurrence."""


def chunked_scan(
    x: Float[Tensor, "B T H P"],
    log_decay: Float[Tensor, "B T H"],
    b: Float[Tensor, "B T S"],
    c: Float[Tensor, "B T S"],
    episode: Int64[Tensor, "B T"],
    state: Float[Tensor, "B H P S"],
) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P S"]]:
    """State space duality (section 6): outputs without D, and the last state.

    ``episode`` counts resets so far. Nothing passes from one number to the next, and ``state`` belongs to number 0.
    """
    length, size = x.shape[1], min(CHUNK, x.shape[1])
    pad = -length % size
    x, b, c = (F.pad(v, (0, 0) * (v.ndim - 2) + (0, pad)) for v in (x, b, c))
    log_decay = F.pad(log_decay, (0, 0, 0, pad)).unflatten(1, (-1, size)).transpose(2, 3)
    episode = torch.cat([episode, episode[:, -1:].expand(-1, pad)], dim=1).unflatten(1, (-1, size))
    x, b, c = (v.unflatten(1, (-1, size)) for v in (x, b, c))
    carried = torch.cat([torch.zeros_like(episode[:, :1, -1]), episode[:, :-1, -1]], dim=1)  # of each chunk's carry

    # Within a chunk (the diagonal blocks): y = (L o C B^T) x. log L_ij adds the decays after j up to i; a difference of
    # running sums would round away small ones, and let other episodes' decays into the rounding.
    order = torch.ones(size, size, dtype=x.dtype, device=x.device).tril()
    same = episode[..., :, None] == episode[..., None, :]
    spans = order @ (log_decay[..., None] * (same & order.tril(-1).bool())[:, :, None])
    decay = spans.masked_fill(~(same & order.bool())[:, :, None], -torch.inf).exp()  # [B, n, H, i, j]
    y = (decay * (c @ b.mT)[:, :, None]) @ x.transpose(2, 3)

    # What each chunk leaves behind, and the recurrence over chunks.
    left = torch.einsum("bnqhp,bnhq,bnqs->bnhps", x, decay[..., -1, :], b)
    own = episode == carried[..., None]
    reach = (log_decay * own[:, :, None]).cumsum(-1).masked_fill(~own[:, :, None], -torch.inf).exp()
    states = linear_scan(reach[..., -1, None, None], left, state)

    # What the state before each chunk adds to its outputs (the off-diagonal blocks).
    entering = torch.cat([state[:, None], states[:, :-1]], dim=1)
    y = y + reach[..., None] * torch.einsum("bnqs,bnhps->bnhqp", c, entering)
    return y.transpose(2, 3).flatten(1, 2)[:, :length], states[:, -1]


def fused_scan(
    x: Tensor, log_decay: Tensor, b: Tensor, c: Tensor, episode: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`chunked_scan` by the kernel of the Mamba-2 authors, with dt and A folded into its arguments."""
    # The kernel wants dt and A of their own: with A = -1 and dt = -log_decay its decay is ours, and x / dt its input.
    dt = -log_decay
    kernel = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    return kernel.mamba_chunk_scan_combined(
        x / dt[..., None],
        dt,
        -torch.ones_like(log_decay[0, 0]),
        b[:, :, None],
        c[:, :, None],
        chunk_size=64,
        initial_states=state,
        seq_idx=episode.int(),
        return_final_states=True,
    )


@torch.compiler.assume_constant_result
def fused_is_exact(device: torch.device, heads: int, head: int, state: int) -> bool:
    """Return whether to use the fused scan in place of the chunked one. Decided and logged once for such sizes."""
    sizes = (heads, head, state)
    return is_exact("mamba", "mamba_ssm", device, sizes, partial(difference, device, *sizes))


def difference(device: torch.device, heads: int, head: int, size: int) -> float:
    """Return the largest relative difference of the two scans, in outputs, states and gradients.

    The sequences are made up, with resets.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    x, b, c, state = draw(2, 150, heads, head), draw(2, 150, size), draw(2, 150, size), draw(2, heads, head, size)
    log_decay = -draw(2, 150, heads).abs() / 10 - 1e-3
    episode = (draw(2, 150) > 2).long().cumsum(1)
    found = []
    for scan in (chunked_scan, fused_scan):
        leaves = [v.clone().requires_grad_() for v in (x, log_decay, b, c, state)]
        y, last = scan(*leaves[:4], episode, leaves[4])
        gradients = torch.autograd.grad((y.square().mean() + last.square().mean()), leaves)
        found.append((y, last, *gradients))
    return apart(*found)
