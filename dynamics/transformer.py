"""A causal transformer that forgets at resets: pre-norm, rotary positions (Su et al. 2021), a sliding window.

While acting, keys and values live in a ring of ``window`` slots a row. Imagined rows share those of the sequence they
start from and keep only their own.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from dynamics.base import Core, Memory, MemoryLayout, layout_of, since_reset
from worldmodels.common.options import Count, checked
from worldmodels.errors import OptionError, UserError
from worldmodels.nets.layers import apply_rotary, init_linear_, rotary_angles

NOWHERE = -2
"""Episode of a slot that holds nothing. -1 is the one that a sequence continues; others have their reset's index."""


class Block(nn.Module):
    """Attention and MLP, each on a normed copy of the residual stream; attention itself is done by the caller."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = init_linear_(nn.Linear(width, 3 * width, bias=False))
        self.out = init_linear_(nn.Linear(width, width, bias=False))
        up, down = init_linear_(nn.Linear(width, 4 * width)), init_linear_(nn.Linear(4 * width, width))
        self.mlp = nn.Sequential(nn.LayerNorm(width), up, nn.GELU(), down)

    def project(
        self, u: Float[Tensor, "B T W"], turn: tuple[Float[Tensor, "B 1 T c"], Float[Tensor, "B 1 T c"]]
    ) -> tuple[Float[Tensor, "B h T d"], Float[Tensor, "B h T d"], Float[Tensor, "B h T d"]]:
        """Queries and keys, turned by their positions, and values, in fp32."""
        q, k, v = self.qkv(self.norm(u)).float().unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return apply_rotary(q, *turn), apply_rotary(k, *turn), v

    def finish(self, u: Float[Tensor, "B T W"], attended: Float[Tensor, "B h T d"]) -> Float[Tensor, "B T W"]:
        """Add what was attended to, then the MLP."""
        u = u + self.out(attended.transpose(1, 2).flatten(2))
        return u + self.mlp(u)


class Transformer(Core):
    """``layers`` blocks that see at most ``window`` steps back, none of them before a reset.

    Memory of a row: keys ``k<layer>`` and values ``v<layer>`` [h, window, d] in a ring, and ``pos``, its steps since
    the reset, which says what each slot holds. Memory of imagined rows, of which each of B sequences has N / B:

    - ``shared_k<layer>``, ``shared_v<layer>`` [B, h, P, d], read only; ``shared_pos`` and ``shared_episode`` [B, P];
    - ``own_k<layer>``, ``own_v<layer>`` [N, h, steps imagined, d];
    - ``root`` and ``episode``, where in the sequence a row began: it sees shared slots of its episode up to its root;
    - ``pos`` of the step to come: shared slots that it has left ``window`` steps behind age out.
    """

    @checked
    def __init__(
        self,
        in_dim: int,
        width: Annotated[Count, "channels of the residual stream"],
        layers: Annotated[Count, "blocks"],
        heads: Annotated[Count, "of attention"],
        window: Annotated[Count, "steps it sees back: at least a window of training, and every imagined horizon"],
    ) -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            reason = f"must divide {width} channels into heads of even size, which rotary positions need"
            raise OptionError("heads", heads, reason)
        self.out_dim, self.heads, self.window, self.max_length = width, heads, window, window
        self.embed = init_linear_(nn.Linear(in_dim, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def initial(self, n: int) -> Memory:
        """An empty ring."""
        zeros = self.norm.weight.new_zeros
        shape = (n, self.heads, self.window, self.out_dim // self.heads)
        ring = {f"{part}{i}": zeros(shape) for i in range(len(self.blocks)) for part in "kv"}
        return {**ring, "pos": zeros(n, dtype=torch.int64)}

    def layouts(self) -> list[MemoryLayout]:
        """A ring, or what :meth:`fork` and :meth:`starts` make of rings, with any number of slots."""
        ring = self.initial(1)
        slots = {2: (self.heads, None, self.out_dim // self.heads), 0: (None,), -1: ()}
        return [layout_of(ring), {key: slots[value.ndim - 2] for key, value in self.fork(ring, 1).items()}]

    def entry(self, memory: Memory) -> Memory:
        """The newest keys and values [N, h, d]."""
        slot = ((memory["pos"] - 1) % self.window)[:, None, None, None]
        return {key: value.take_along_dim(slot, 2)[:, :, 0] for key, value in memory.items() if key != "pos"}

    def step(
        self, x: Float[Tensor, "N X"], reset: Bool[Tensor, " N"] | None, memory: Memory
    ) -> tuple[Float[Tensor, "N D"], Memory]:
        """Write one slot of the ring and attend to those that are filled."""
        if "root" in memory:
            return self._imagine(x, reset, memory)
        pos = memory["pos"] if reset is None else torch.where(reset, 0, memory["pos"])
        index = torch.arange(self.window, device=x.device)
        here = (index == (pos % self.window)[:, None])[:, None, :, None]
        filled = ((index <= pos[:, None]) | (pos[:, None] >= self.window))[:, None, None]
        u, after, turn = self.embed(x)[:, None], {}, self._rotary_angles(pos[:, None])
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(u, turn)
            k, v = torch.where(here, k, memory[f"k{i}"]), torch.where(here, v, memory[f"v{i}"])
            u = block.finish(u, F.scaled_dot_product_attention(q, k, v, filled))
            after |= {f"k{i}": k, f"v{i}": v}
        return self.norm(u[:, 0]).float(), {**after, "pos": pos + 1}

    def scan(
        self, x: Float[Tensor, "B T X"], reset: Bool[Tensor, "B T"], memory: Memory
    ) -> tuple[Float[Tensor, "B T D"], Memory, Memory]:
        """One pass over the ring's slots and T new ones; seen is what is earlier, of one episode, in the window."""
        self._require_rings(memory)
        if x.shape[1] > self.window:
            raise UserError(
                f"a sequence of {x.shape[1]} steps is longer than the transformer's window of {self.window}: use a "
                "larger window or shorter sequences."
            )
        pos, episode = self._places(reset, memory["pos"])
        old_pos, old_episode = self._slots(memory["pos"])
        all_pos, all_episode = torch.cat([old_pos, pos], dim=1), torch.cat([old_episode, episode], dim=1)
        distance = pos[:, :, None] - all_pos[:, None]
        seen = (episode[:, :, None] == all_episode[:, None]) & (distance >= 0) & (distance < self.window)
        u, entries, after, turn = self.embed(x), {}, {"pos": pos[:, -1] + 1}, self._rotary_angles(pos)
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(u, turn)
            keys, values = torch.cat([memory[f"k{i}"], k], dim=2), torch.cat([memory[f"v{i}"], v], dim=2)
            u = block.finish(u, F.scaled_dot_product_attention(q, keys, values, seen[:, None]))
            entries |= {f"k{i}": k.transpose(1, 2), f"v{i}": v.transpose(1, 2)}
            after |= {f"k{i}": self._written(keys, after["pos"]), f"v{i}": self._written(values, after["pos"])}
        return self.norm(u).float(), entries, {key: after[key] for key in memory}

    def starts(self, entries: Memory, reset: Bool[Tensor, "B T"], before: Memory, last: int) -> Memory:
        """Rows that share the sequences' keys and values: no row has a copy."""
        pos, episode = self._places(reset, before["pos"])
        old_pos, old_episode = self._slots(before["pos"])
        shared = {key: torch.cat([before[key], value.transpose(1, 2)], dim=2) for key, value in entries.items()}
        slots = torch.cat([old_pos, pos], dim=1), torch.cat([old_episode, episode], dim=1)
        return self._rooted(shared, *slots, *(place[:, -last:].flatten() for place in (pos, episode)))

    def fork(self, memory: Memory, n: int) -> Memory:
        """Rows that share a ring; of rows that share already, only what is their own is repeated."""
        if "root" in memory:
            return {key: x if key.startswith("shared") else x.repeat_interleave(n, 0) for key, x in memory.items()}
        ring = {key: value for key, value in memory.items() if key != "pos"}
        root = (memory["pos"] - 1).repeat_interleave(n)
        return self._rooted(ring, *self._slots(memory["pos"]), root, torch.full_like(root, -1))

    def select(self, memory: Memory, rows: Int64[Tensor, " K"] | slice) -> Memory:
        """Some rows; of rows that share, each gets a copy of what it sees."""
        if "root" not in memory:
            return super().select(memory, rows)
        group = torch.arange(len(memory["root"]), device=memory["root"].device)[rows] // self._sharing(memory)
        return {key: x[group] if key.startswith("shared") else x[rows] for key, x in memory.items()}

    def _imagine(
        self, x: Float[Tensor, "N X"], reset: Bool[Tensor, " N"] | None, memory: Memory
    ) -> tuple[Float[Tensor, "N D"], Memory]:
        """Attend to shared and own slots with one softmax, the shared ones read where they are."""
        steps, each, pos = memory["own_k0"].shape[2], self._sharing(memory), memory["pos"]
        if reset is not None:
            self._require_rings(memory)
        if steps == self.window:
            raise UserError(
                f"the transformer cannot imagine more than its window of {steps} steps: lower the horizon, or train "
                "with a larger window."
            )
        rooted = (memory[key].unflatten(0, (-1, each))[..., None] for key in ("pos", "root", "episode"))
        (now, root, episode), slot = rooted, memory["shared_pos"][:, None]
        seen = (memory["shared_episode"][:, None] == episode) & (slot <= root) & (now - slot < self.window)
        u, after, turn = self.embed(x)[:, None], dict(memory), self._rotary_angles(pos[:, None])
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(u, turn)
            own_k, own_v = (torch.cat([memory[f"own_{part}{i}"], new], dim=2) for part, new in (("k", k), ("v", v)))
            shared_k, shared_v = memory[f"shared_k{i}"], memory[f"shared_v{i}"]
            q = q * q.shape[-1] ** -0.5
            grouped = q[:, :, 0].unflatten(0, (-1, each)).transpose(1, 2)  # [B, h, N / B, d]
            far = (grouped @ shared_k.mT).masked_fill(~seen[:, None], -torch.inf).transpose(1, 2).flatten(0, 1)
            weights = torch.cat([far[:, :, None], q @ own_k.mT], dim=-1).softmax(-1)
            far, near = weights.split((far.shape[-1], steps + 1), dim=-1)
            far = far[:, :, 0].unflatten(0, (-1, each)).transpose(1, 2) @ shared_v
            u = block.finish(u, far.transpose(1, 2).flatten(0, 1)[:, :, None] + near @ own_v)
            after |= {f"own_k{i}": own_k, f"own_v{i}": own_v}
        return self.norm(u[:, 0]).float(), after | {"pos": pos + 1}

    def _require_rings(self, memory: Memory) -> None:
        if "root" in memory:
            raise UserError("frames cannot be filtered into imagined states of a transformer: filter first, then fork.")

    def _rooted(self, shared: Memory, slot: Tensor, slot_episode: Tensor, root: Tensor, episode: Tensor) -> Memory:
        """Imagined rows before their first step."""
        own = {
            f"own_{key}": value.new_zeros(len(root), self.heads, 0, value.shape[-1]) for key, value in shared.items()
        }
        slots = {"shared_pos": slot, "shared_episode": slot_episode}
        shared = {f"shared_{key}": value for key, value in shared.items()}
        return {**shared, **slots, **own, "root": root, "episode": episode, "pos": root + 1}

    def _sharing(self, memory: Memory) -> int:
        """How many rows share one ring."""
        return len(memory["root"]) // len(memory["shared_pos"])

    def _rotary_angles(self, position: Int64[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
        return rotary_angles(position, self.out_dim // self.heads)

    def _places(self, reset: Bool[Tensor, "B T"], start: Int64[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        """Position and episode of every step of a sequence that continues at ``start``."""
        since, carried = since_reset(reset)
        index = torch.arange(reset.shape[1], device=reset.device)
        return torch.where(carried, start[:, None] + since, since), torch.where(carried, -1, index - since)

    def _slots(self, pos: Int64[Tensor, " N"]) -> tuple[Int64[Tensor, "N W"], Int64[Tensor, "N W"]]:
        """Position and episode of what a ring's slots hold before step ``pos``: the newest that belongs there."""
        newest = pos[:, None] - 1
        held = newest - (newest - torch.arange(self.window, device=pos.device)) % self.window
        return held, torch.where(held < 0, NOWHERE, -1)

    def _written(self, slots: Float[Tensor, "B h S d"], pos: Int64[Tensor, " B"]) -> Float[Tensor, "B h W d"]:
        """The ring after a sequence, from the slots before it and T new ones: where step ``pos`` comes next."""
        held, _ = self._slots(pos)
        new = slots.shape[2] - (pos[:, None] - held)
        old = torch.arange(self.window, device=pos.device)
        source = torch.where((held >= 0) & (new >= self.window), new, old)
        return slots.take_along_dim(source[:, None, :, None], 2)
