"""Keys and values of a causal attention with a sliding window: rings of rows that act, shared rings of rows imagined.

A *ring* holds the ``window`` newest steps of a row: keys ``k<layer>`` and values ``v<layer>`` [N, h, window, d], and
``pos`` [N], the row's steps since its reset, which says what each slot holds.

*Imagined rows*, of which each of B sequences has N / B, share the sequence's slots and keep only their own:

- ``shared_k<layer>``, ``shared_v<layer>`` [B, h, P, d], read only; ``shared_pos`` and ``shared_episode`` [B, P];
- ``own_k<layer>``, ``own_v<layer>`` [N, h, steps imagined, d];
- ``root`` and ``episode``, where in the sequence a row began: it sees shared slots of its episode up to its root;
- ``pos`` of the step to come: shared slots that it has left ``window`` steps behind age out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dynamics.base import Memory, MemoryLayout, layout_of
from dynamics.scan import since_reset

NOWHERE = -2
"""Episode of a slot that holds nothing. -1 is the one that a sequence continues; others have their reset's index."""


@dataclass(frozen=True)
class KVCache:
    """Form of the memories of ``layers`` layers, and what each step may see of them. It holds no tensor itself."""

    layers: int
    heads: int
    head_dim: int
    window: int

    def initial(self, n: int, like: Tensor) -> Memory:
        """Return empty rings."""
        shape = (n, self.heads, self.window, self.head_dim)
        ring = {f"{part}{i}": like.new_zeros(shape) for i in range(self.layers) for part in "kv"}
        return {**ring, "pos": like.new_zeros(n, dtype=torch.int64)}

    def layouts(self, like: Tensor) -> list[MemoryLayout]:
        """Describe a ring, and imagined rows, which have any number of slots."""
        ring = self.initial(1, like)
        slots = {2: (self.heads, None, self.head_dim), 0: (None,), -1: ()}
        return [layout_of(ring), {key: slots[value.ndim - 2] for key, value in self.fork(ring, 1).items()}]

    @staticmethod
    def imagines(memory: Memory) -> bool:
        """Return whether a memory is that of imagined rows."""
        return "root" in memory

    # One step of a ring

    def entry(self, memory: Memory) -> Memory:
        """Return the newest keys and values [N, h, d]."""
        slot = ((memory["pos"] - 1) % self.window)[:, None, None, None]
        return {key: value.take_along_dim(slot, 2)[:, :, 0] for key, value in memory.items() if key != "pos"}

    def step_slots(self, pos: Int64[Tensor, " N"]) -> tuple[Bool[Tensor, "N 1 W 1"], Bool[Tensor, "N 1 1 W"]]:
        """Return the slot that step ``pos`` is written to, and those that it sees, itself included."""
        index = torch.arange(self.window, device=pos.device)
        here = (index == (pos % self.window)[:, None])[:, None, :, None]
        return here, ((index <= pos[:, None]) | (pos[:, None] >= self.window))[:, None, None]

    # A sequence that continues a ring

    def places(
        self, reset: Bool[Tensor, "B T"], start: Int64[Tensor, " B"]
    ) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
        """Return position and episode of every step of a sequence that continues at ``start``."""
        since, carried = since_reset(reset)
        index = torch.arange(reset.shape[1], device=reset.device)
        return torch.where(carried, start[:, None] + since, since), torch.where(carried, -1, index - since)

    def slots(self, pos: Int64[Tensor, " N"]) -> tuple[Int64[Tensor, "N W"], Int64[Tensor, "N W"]]:
        """Return position and episode of what a ring's slots hold before step ``pos``: the newest that fits."""
        last = pos[:, None] - 1
        held = last - (last - torch.arange(self.window, device=pos.device)) % self.window
        return held, torch.where(held < 0, NOWHERE, -1)

    def sequence(
        self, reset: Bool[Tensor, "B T"], start: Int64[Tensor, " B"]
    ) -> tuple[Int64[Tensor, "B T"], Bool[Tensor, "B 1 T S"]]:
        """Return the position of each of T steps, and what it sees of the ring's slots and the T steps.

        Seen is what is earlier, of one episode, in the window.
        """
        pos, episode = self.places(reset, start)
        old_pos, old_episode = self.slots(start)
        all_pos, all_episode = torch.cat([old_pos, pos], dim=1), torch.cat([old_episode, episode], dim=1)
        distance = pos[:, :, None] - all_pos[:, None]
        seen = (episode[:, :, None] == all_episode[:, None]) & (distance >= 0) & (distance < self.window)
        return pos, seen[:, None]

    def written(self, slots: Float[Tensor, "B h S d"], pos: Int64[Tensor, " B"]) -> Float[Tensor, "B h W d"]:
        """Return the ring after a sequence, from the slots before it and T new ones: where step ``pos`` comes next."""
        held, _ = self.slots(pos)
        new = slots.shape[2] - (pos[:, None] - held)
        old = torch.arange(self.window, device=pos.device)
        source = torch.where((held >= 0) & (new >= self.window), new, old)
        return slots.take_along_dim(source[:, None, :, None], 2)

    # Rows that share

    def starts(self, entries: Memory, reset: Bool[Tensor, "B T"], before: Memory, last: int) -> Memory:
        """Return imagined rows that begin at each of the ``last`` steps of a sequence: no row has a copy of it."""
        pos, episode = self.places(reset, before["pos"])
        old_pos, old_episode = self.slots(before["pos"])
        shared = {key: torch.cat([before[key], value.transpose(1, 2)], dim=2) for key, value in entries.items()}
        slots = torch.cat([old_pos, pos], dim=1), torch.cat([old_episode, episode], dim=1)
        return self._rooted(shared, *slots, *(place[:, -last:].flatten() for place in (pos, episode)))

    def fork(self, memory: Memory, n: int) -> Memory:
        """Return rows that share a ring. Of rows that share already, only what is their own is repeated."""
        if self.imagines(memory):
            return {key: x if key.startswith("shared") else x.repeat_interleave(n, 0) for key, x in memory.items()}
        ring = {key: value for key, value in memory.items() if key != "pos"}
        root = (memory["pos"] - 1).repeat_interleave(n)
        return self._rooted(ring, *self.slots(memory["pos"]), root, torch.full_like(root, -1))

    def select(self, memory: Memory, rows: Int64[Tensor, " K"] | slice) -> Memory:
        """Return some rows. Of rows that share, each gets a copy of what it sees."""
        if not self.imagines(memory):
            return {key: value[rows] for key, value in memory.items()}
        group = torch.arange(len(memory["root"]), device=memory["root"].device)[rows] // self.sharing(memory)
        return {key: x[group] if key.startswith("shared") else x[rows] for key, x in memory.items()}

    def sharing(self, memory: Memory) -> int:
        """Return how many imagined rows share one sequence."""
        return len(memory["root"]) // len(memory["shared_pos"])

    def seen(self, memory: Memory) -> Bool[Tensor, "B M P"]:
        """Return which shared slots each of the M rows of a sequence sees at its coming step."""
        each = self.sharing(memory)
        rooted = (memory[key].unflatten(0, (-1, each))[..., None] for key in ("pos", "root", "episode"))
        (now, root, episode), slot = rooted, memory["shared_pos"][:, None]
        return (memory["shared_episode"][:, None] == episode) & (slot <= root) & (now - slot < self.window)

    def attend(
        self, memory: Memory, layer: int, q: Tensor, k: Tensor, v: Tensor, seen: Bool[Tensor, "B M P"]
    ) -> tuple[Float[Tensor, "N h 1 d"], Memory]:
        """Attend to shared and own slots with one softmax, the shared ones read where they are.

        ``q``, ``k`` and ``v`` are the coming step's [N, h, 1, d]. Also returns the own slots with the step's.
        """
        each = self.sharing(memory)
        own_k, own_v = (torch.cat([memory[f"own_{part}{layer}"], new], dim=2) for part, new in (("k", k), ("v", v)))
        shared_k, shared_v = memory[f"shared_k{layer}"], memory[f"shared_v{layer}"]
        q = q * q.shape[-1] ** -0.5
        grouped = q[:, :, 0].unflatten(0, (-1, each)).transpose(1, 2)  # [B, h, N / B, d]
        far = (grouped @ shared_k.mT).masked_fill(~seen[:, None], -torch.inf).transpose(1, 2).flatten(0, 1)
        weights = torch.cat([far[:, :, None], q @ own_k.mT], dim=-1).softmax(-1)
        far, near = weights.split((far.shape[-1], own_k.shape[2]), dim=-1)
        far = far[:, :, 0].unflatten(0, (-1, each)).transpose(1, 2) @ shared_v
        attended = far.transpose(1, 2).flatten(0, 1)[:, :, None] + near @ own_v
        return attended, {f"own_k{layer}": own_k, f"own_v{layer}": own_v}

    def _rooted(self, shared: Memory, slot: Tensor, slot_episode: Tensor, root: Tensor, episode: Tensor) -> Memory:
        """Return imagined rows before their first step."""
        own = {
            f"own_{key}": value.new_zeros(len(root), self.heads, 0, value.shape[-1]) for key, value in shared.items()
        }
        slots = {"shared_pos": slot, "shared_episode": slot_episode}
        shared = {f"shared_{key}": value for key, value in shared.items()}
        return {**shared, **slots, **own, "root": root, "episode": episode, "pos": root + 1}
