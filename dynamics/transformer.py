"""A causal transformer that forgets at resets: pre-norm, rotary positions (Su et al. 2021), a sliding window.

While acting, keys and values live in a ring of ``window`` slots a row. Imagined rows share those of the sequence they
start from and keep only their own (``kv_cache.py``).
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from dynamics.base import Core, Memory, MemoryLayout
from dynamics.kv_cache import KVCache
from worldmodels.common.options import Count, checked
from worldmodels.common.precision import wide
from worldmodels.errors import OptionError, UserError
from worldmodels.nets.layers import DEFAULT_STYLE, NetStyle, init_linear_
from worldmodels.nets.rotary import apply_rotary, rotary_angles


class Block(nn.Module):
    """Attention and MLP, each on a normed copy of the residual stream. Attention itself is done by the caller."""

    def __init__(self, width: int, heads: int, style: NetStyle = DEFAULT_STYLE) -> None:
        super().__init__()
        self.heads = heads
        self.norm = style.make_norm(width)
        self.qkv = init_linear_(nn.Linear(width, 3 * width, bias=False), style=style)
        self.out = init_linear_(nn.Linear(width, width, bias=False), style=style)
        up, down = (
            init_linear_(nn.Linear(width, 4 * width), style=style),
            init_linear_(nn.Linear(4 * width, width), style=style),
        )
        self.mlp = nn.Sequential(style.make_norm(width), up, nn.GELU(), down)

    def project(
        self, u: Float[Tensor, "B T W"], turn: tuple[Float[Tensor, "B 1 T c"], Float[Tensor, "B 1 T c"]]
    ) -> tuple[Float[Tensor, "B h T d"], Float[Tensor, "B h T d"], Float[Tensor, "B h T d"]]:
        """Queries and keys, turned by their positions, and values, in fp32."""
        q, k, v = wide(self.qkv(self.norm(u))).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return apply_rotary(q, *turn), apply_rotary(k, *turn), v

    def finish(self, u: Float[Tensor, "B T W"], attended: Float[Tensor, "B h T d"]) -> Float[Tensor, "B T W"]:
        """Add what was attended to, then the MLP."""
        u = u + self.out(attended.transpose(1, 2).flatten(2))
        return u + self.mlp(u)


class Transformer(Core):
    """``layers`` blocks that see at most ``window`` steps back, none of them before a reset.

    Its memories are those of a :class:`~dynamics.kv_cache.KVCache`.
    """

    @checked
    def __init__(
        self,
        in_dim: int,
        width: Annotated[Count, "channels of the residual stream"],
        layers: Annotated[Count, "blocks"],
        heads: Annotated[Count, "of attention"],
        window: Annotated[Count, "steps it sees back: at least a window of training, and every imagined horizon"],
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            reason = f"must divide {width} channels into heads of even size, which rotary positions need"
            raise OptionError("heads", heads, reason)
        self.out_dim, self.heads, self.window, self.max_length = width, heads, window, window
        self.cache = KVCache(layers, heads, width // heads, window)
        self.embed = init_linear_(nn.Linear(in_dim, width), style=style)
        self.blocks = nn.ModuleList(Block(width, heads, style) for _ in range(layers))
        self.norm = style.make_norm(width)

    @override
    def initial(self, n: int) -> Memory:
        return self.cache.initial(n, self.norm.weight)

    @override
    def layouts(self) -> list[MemoryLayout]:
        return self.cache.layouts(self.norm.weight)

    @override
    def entry(self, memory: Memory) -> Memory:
        return self.cache.entry(memory)

    def step(
        self, x: Float[Tensor, "N X"], reset: Bool[Tensor, " N"] | None, memory: Memory
    ) -> tuple[Float[Tensor, "N D"], Memory]:
        """Write one slot of the ring and attend to those that are filled."""
        if self.cache.imagines(memory):
            return self._imagine(x, reset, memory)
        pos = memory["pos"] if reset is None else torch.where(reset, 0, memory["pos"])
        here, filled = self.cache.step_slots(pos)
        u, after, turn = self.embed(x)[:, None], {}, self._rotary_angles(pos[:, None])
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(u, turn)
            k, v = torch.where(here, k, memory[f"k{i}"]), torch.where(here, v, memory[f"v{i}"])
            u = block.finish(u, F.scaled_dot_product_attention(q, k, v, filled))
            after |= {f"k{i}": k, f"v{i}": v}
        return wide(self.norm(u[:, 0])), {**after, "pos": pos + 1}

    def scan(
        self, x: Float[Tensor, "B T X"], reset: Bool[Tensor, "B T"], memory: Memory
    ) -> tuple[Float[Tensor, "B T D"], Memory, Memory]:
        """Attend in one pass over the ring's slots and T new ones."""
        self._require_rings(memory)
        if x.shape[1] > self.window:
            raise UserError(
                f"a sequence of {x.shape[1]} steps is longer than the transformer's window of {self.window}: use a "
                "larger window or shorter sequences."
            )
        pos, seen = self.cache.sequence(reset, memory["pos"])
        u, entries, after, turn = self.embed(x), {}, {"pos": pos[:, -1] + 1}, self._rotary_angles(pos)
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(u, turn)
            keys, values = torch.cat([memory[f"k{i}"], k], dim=2), torch.cat([memory[f"v{i}"], v], dim=2)
            u = block.finish(u, F.scaled_dot_product_attention(q, keys, values, seen))
            entries |= {f"k{i}": k.transpose(1, 2), f"v{i}": v.transpose(1, 2)}
            written = (self.cache.written(slots, after["pos"]) for slots in (keys, values))
            after |= dict(zip((f"k{i}", f"v{i}"), written, strict=True))
        return wide(self.norm(u)), entries, {key: after[key] for key in memory}

    def starts(self, entries: Memory, reset: Bool[Tensor, "B T"], before: Memory, last: int) -> Memory:
        """Return rows that share the sequences' keys and values: no row has a copy."""
        return self.cache.starts(entries, reset, before, last)

    def fork(self, memory: Memory, n: int) -> Memory:
        """Return rows that share a ring. Of rows that share already, only what is their own is repeated."""
        return self.cache.fork(memory, n)

    def select(self, memory: Memory, rows: Int64[Tensor, " K"] | slice) -> Memory:
        """Return some rows. Of rows that share, each gets a copy of what it sees."""
        return self.cache.select(memory, rows)

    def _imagine(
        self, x: Float[Tensor, "N X"], reset: Bool[Tensor, " N"] | None, memory: Memory
    ) -> tuple[Float[Tensor, "N D"], Memory]:
        """Attend to shared and own slots."""
        if reset is not None:
            self._require_rings(memory)
        if memory["own_k0"].shape[2] == self.window:
            raise UserError(
                f"the transformer cannot imagine more than its window of {self.window} steps: lower the horizon, or "
                "train with a larger window."
            )
        pos, seen = memory["pos"], self.cache.seen(memory)
        u, after, turn = self.embed(x)[:, None], dict(memory), self._rotary_angles(pos[:, None])
        for i, block in enumerate(self.blocks):
            attended, own = self.cache.attend(memory, i, *block.project(u, turn), seen)
            u, after = block.finish(u, attended), after | own
        return wide(self.norm(u[:, 0])), after | {"pos": pos + 1}

    def _require_rings(self, memory: Memory) -> None:
        if self.cache.imagines(memory):
            raise UserError("frames cannot be filtered into imagined states of a transformer: filter first, then fork.")

    def _rotary_angles(self, position: Int64[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
        return rotary_angles(position, self.cache.head_dim)
