"""A diagonal state space with one input and output a channel, over long sequences: products instead of states.

Within a chunk of K steps what a channel puts out is a Toeplitz matrix [K, K] times its inputs. States exist at the ends
of chunks alone, so that T steps take a K-th of the memory that all states take (Gu et al. 2022, section 3, gives the
kernel; chunks as in Dao & Gu 2024, section 6).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor

from dynamics.scan import linear_scan, reset_decay

K = 32
"""Steps of a chunk."""


def chunked_scan(
    log_decay: Complex[Tensor, "W P"],
    scale: Complex[Tensor, "W P"],
    out: Complex[Tensor, "W P"],
    u: Float[Tensor, "B T W"],
    reset: Bool[Tensor, "B T"],
    state: Complex[Tensor, "B W P"],
) -> tuple[Float[Tensor, "B T W"], Complex[Tensor, "B C W P"]]:
    """Return ``2 Re(out x_t)`` of ``x_t = exp(log_decay) x_{t-1} + scale u_t``, and the states after each chunk.

    T must be C chunks. Where a chunk holds resets, each episode in it is computed by itself: the only thing that the
    host has to know.
    """
    power = torch.exp(log_decay[..., None] * torch.arange(K + 1, device=u.device))  # [W, P, K + 1]
    kernel = 2 * (out * scale)[..., None].mul(power[..., :K]).real.sum(1)
    lag = torch.arange(K, device=u.device)[:, None] - torch.arange(K, device=u.device)
    within = torch.where(lag >= 0, kernel[:, lag.clamp(min=0)], 0.0).mT  # [W, K of inputs, K of outputs]
    to_end = torch.view_as_real((scale[..., None] * power[..., :K].flip(-1)).mT).flatten(2)  # [W, K, 2 P]
    from_start = torch.view_as_real((2 * out[..., None] * power[..., 1:]).conj().resolve_conj().mT).flatten(2).mT

    chunks = u.shape[1] // K
    inputs = u.unflatten(1, (chunks, K)).flatten(0, 1).permute(2, 0, 1)  # [W, B C, K]
    episode = reset.unflatten(1, (chunks, K)).flatten(0, 1).cumsum(1)  # of each step within its chunk [B C, K]
    newest = episode[:, -1:]

    y = _of_episodes(within, inputs, episode)
    ends = torch.view_as_complex((inputs * (episode == newest)).bmm(to_end).unflatten(-1, (-1, 2)))  # [W, B C, P]
    ends = ends.transpose(0, 1).unflatten(0, (len(u), chunks))
    over_chunk = reset_decay(power[..., K], (newest > 0).view(len(u), chunks))
    ends = linear_scan(over_chunk, ends, state)
    before = torch.cat([state[:, None], ends[:, :-1]], dim=1).flatten(0, 1).transpose(0, 1)  # [W, B C, P]
    y = y + torch.view_as_real(before).flatten(2).bmm(from_start) * (episode == 0)
    return y.permute(1, 2, 0).unflatten(0, (len(u), chunks)).flatten(1, 2), ends


def _of_episodes(
    within: Float[Tensor, "W K K"], inputs: Float[Tensor, "W M K"], episode: Int64[Tensor, "M K"]
) -> Float[Tensor, "W M K"]:
    """Return what inputs of each chunk make of outputs of the same episode."""
    y = (inputs * (episode == 0)).bmm(within) * (episode == 0)
    for number in range(1, int(episode.max()) + 1):
        rows = (episode[:, -1] >= number).nonzero().squeeze(1)
        own = episode[rows] == number
        y = y.index_add(1, rows, (inputs[:, rows] * own).bmm(within) * own)
    return y
