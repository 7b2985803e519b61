"""Random numbers: spectra of noise, and a global stream of one's own for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor


def color_noise(white: Float[Tensor, "*batch H A"], beta: float) -> Float[Tensor, "*batch H A"]:
    """Give white noise the spectrum ``f ** -beta`` along H, because smooth actions explore farther (iCEM, section 3.1).

    0 leaves it white, 1 is pink, 2 is red. Every element stays standard normal: the filter has unit power. Pinneri et
    al., "Sample-efficient Cross-Entropy Method for Real-time Planning", 2020; the mean counts as the lowest frequency.
    """
    length = white.shape[-2]
    if beta == 0 or length == 1:
        return white
    frequency = torch.fft.rfftfreq(length, device=white.device).clamp(min=1 / length)
    gain = frequency ** (-beta / 2)
    # Every frequency but the mean, and the Nyquist frequency of an even length, stands for a conjugate pair.
    share = torch.full_like(gain, 2.0)
    share[0] = 1.0
    if length % 2 == 0:
        share[-1] = 1.0
    gain = gain * (length / (share * gain.square()).sum()).sqrt()
    return torch.fft.irfft(torch.fft.rfft(white, dim=-2) * gain[:, None], n=length, dim=-2)


@contextmanager
def own_randomness(generator: torch.Generator | None) -> Iterator[None]:
    """Seed the global random stream from ``generator`` for a while, and put it back; None leaves it alone."""
    if generator is None:
        yield
        return
    with torch.random.fork_rng(devices=[generator.device] if generator.device.type == "cuda" else []):
        torch.manual_seed(generator.initial_seed())
        yield
