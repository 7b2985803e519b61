"""A causal transformer with rotary positions, step by step in float64 NumPy, without any cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from core_cases import gelu, layer_norm
from paper_cases import named

NAMES = {
    "scale": "norm.weight",
    "shift": "norm.bias",
    "W_qkv": "qkv.weight",
    "W_out": "out.weight",
    "mlp_scale": "mlp.0.weight",
    "mlp_shift": "mlp.0.bias",
    "W_up": "mlp.1.weight",
    "b_up": "mlp.1.bias",
    "W_down": "mlp.3.weight",
    "b_down": "mlp.3.bias",
}


@cache
def rotation(position, size):
    """R of a position (Su et al. 2021, eq. 15): neighbouring channels turn by position * 10000^(-2 i / size)."""
    matrix = np.zeros((size, size))
    for i in range(size // 2):
        angle = position * 10_000.0 ** (-2 * i / size)
        here = slice(2 * i, 2 * i + 2)
        matrix[here, here] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def as_neighbours(x):
    """Channels in the paper's order: ours turns the first of one half with the first of the other, and so on."""
    return x.reshape(2, -1).T.reshape(-1)


def attention(p, u, begin, heads, window):
    """sum_j softmax_j(q_t . k_j / sqrt(d)) v_j (Vaswani et al. 2017, eq. 1) over what step t may see.

    Seen are steps of its own episode (``begin`` is where that began), at most ``window`` with itself. Positions count
    from there.
    """
    size, attended = u.shape[1] // heads, np.zeros_like(u)
    q, k, v = np.split(u @ p.W_qkv.T, 3, axis=-1)
    for t in range(len(u)):
        seen = [j for j in range(t + 1) if j >= begin[t] and t - j < window]
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            query = rotation(t - begin[t], size) @ as_neighbours(q[t, own])
            keys = [rotation(j - begin[t], size) @ as_neighbours(k[j, own]) for j in seen]
            weights = np.exp([query @ key / np.sqrt(size) for key in keys])
            attended[t, own] = weights / weights.sum() @ v[seen][:, own]
    return attended @ p.W_out.T


def transformer(layers: int, heads: int, window: int) -> Callable:
    """Pre-norm blocks (Xiong et al. 2020, figure 1b): u + attention(norm(u)), u + MLP(norm(u)), a norm at the end."""

    def core(w, x, reset):
        begin = np.maximum.accumulate(np.where(reset, np.arange(len(x)), 0))
        u = x @ w["embed.weight"].T + w["embed.bias"]
        for i in range(layers):
            p = named(w, f"blocks.{i}.", NAMES)
            u = u + attention(p, layer_norm(u, p.scale, p.shift), begin, heads, window)
            hidden = gelu(layer_norm(u, p.mlp_scale, p.mlp_shift) @ p.W_up.T + p.b_up)
            u = u + hidden @ p.W_down.T + p.b_down
        return layer_norm(u, w["norm.weight"], w["norm.bias"])

    return core
