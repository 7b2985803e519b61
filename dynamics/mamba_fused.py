"""Where `mamba-ssm` is installed: its fused scan, if it gives the same numbers as ours on this device."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest relative difference at which the fused kernel counts as giving the same numbers; leaves room for TF32."""

Scan = Callable[..., tuple[Tensor, Tensor]]


def fused_scan(
    x: Tensor, log_decay: Tensor, b: Tensor, c: Tensor, episode: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """``dynamics.mamba.chunked_scan`` by the kernel of the Mamba-2 authors, with dt and A folded into its arguments."""
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
def fused_is_exact(device: torch.device, plain: Scan, heads: int, head: int, state: int) -> bool:
    """Whether to use the fused scan in place of ``plain``; decided once for such sizes, and said in the log."""
    return _decide(device, plain, heads, head, state)


@cache
def _decide(device: torch.device, plain: Scan, heads: int, head: int, state: int) -> bool:
    if importlib.util.find_spec("mamba_ssm") is None:
        log.info("mamba: plain PyTorch is used; mamba-ssm, which has a fused kernel for GPUs, is not installed")
        return False
    try:
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):  # whoever asks first, and in what
            error = difference(plain, fused_scan, device, heads, head, state)
    except Exception as failure:  # a kernel that cannot be compiled or launched here fails in its own way
        log.info("mamba: mamba-ssm is installed but does not run on %s (%s): plain PyTorch is used", device, failure)
        return False
    if not error <= TOLERANCE:
        log.info("mamba: the fused kernel differs by %.1e on %s: plain PyTorch is used", error, device)
        return False
    log.info("mamba: the fused kernel is used on %s; it differs by %.1e", device, error)
    return True


def difference(plain: Scan, fused: Scan, device: torch.device, heads: int, head: int, size: int) -> float:
    """The largest relative difference of outputs, last states and gradients on made-up sequences with resets."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    x, b, c, state = draw(2, 150, heads, head), draw(2, 150, size), draw(2, 150, size), draw(2, heads, head, size)
    log_decay = -draw(2, 150, heads).abs() / 10 - 1e-3
    episode = (draw(2, 150) > 2).long().cumsum(1)
    found = []
    for scan in (plain, fused):
        leaves = [v.clone().requires_grad_() for v in (x, log_decay, b, c, state)]
        y, last = scan(*leaves[:4], episode, leaves[4])
        gradients = torch.autograd.grad((y.square().mean() + last.square().mean()), leaves)
        found.append([y, last, *gradients])
    return max(((p - q).abs().max() / p.abs().max()).item() for p, q in zip(*found, strict=True))
