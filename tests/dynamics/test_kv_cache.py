"""Rings and shared rings of keys and values, held against attention over plain lists of steps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dynamics.kv_cache import NOWHERE, KVCache

ROWS, HEADS, DIM, WINDOW, STEPS = 3, 2, 4, 5, 12
CACHE = KVCache(1, HEADS, DIM, WINDOW)
LIKE = torch.zeros(())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(rows=ROWS, steps=STEPS, seed=0):
    """Queries, keys and values [N, h, T, d]."""
    return torch.randn(3, rows, HEADS, steps, DIM, generator=seeded(seed)).unbind(0)


def resets():
    reset = torch.zeros(ROWS, STEPS, dtype=torch.bool)
    reset[0, 0] = reset[0, 7] = reset[1, 3] = reset[1, 4] = True
    return reset


def attended(q, steps):
    """What one query [h, d] makes of a list of (key, value), each [h, d]."""
    keys, values = (torch.stack(x, dim=1) for x in zip(*steps, strict=True))
    weights = (torch.einsum("hd,hsd->hs", q, keys) / DIM**0.5).softmax(-1)
    return torch.einsum("hs,hsd->hd", weights, values)


def histories(k, v, reset):
    """For each row and step, all of its episode until then that is in the window."""
    found = []
    for n in range(len(k)):
        past, row = [], []
        for t in range(k.shape[2]):
            past = ([] if reset[n, t] else past) + [(k[n, :, t], v[n, :, t])]
            row.append(past[-WINDOW:])
        found.append(row)
    return found


def stepped(q, k, v, reset, memory):
    """Outputs [N, h, T, d] and the last ring, one step at a time."""
    outputs = []
    for t in range(q.shape[2]):
        pos = torch.where(reset[:, t], 0, memory["pos"])
        here, filled = CACHE.step_slots(pos)
        keys = torch.where(here, k[:, :, t : t + 1], memory["k0"])
        values = torch.where(here, v[:, :, t : t + 1], memory["v0"])
        outputs.append(F.scaled_dot_product_attention(q[:, :, t : t + 1], keys, values, filled))
        memory = {"k0": keys, "v0": values, "pos": pos + 1}
        assert torch.equal(CACHE.entry(memory)["k0"], k[:, :, t])
    return torch.cat(outputs, dim=2), memory


def scanned(q, k, v, reset, memory):
    """The same of all steps at once."""
    pos, seen = CACHE.sequence(reset, memory["pos"])
    keys, values = torch.cat([memory["k0"], k], dim=2), torch.cat([memory["v0"], v], dim=2)
    after = pos[:, -1] + 1
    ring = {"k0": CACHE.written(keys, after), "v0": CACHE.written(values, after), "pos": after}
    return F.scaled_dot_product_attention(q, keys, values, seen), ring


def warm(steps):
    """Rings after some steps without a reset, and these steps."""
    q, k, v = drawn(steps=steps, seed=9)
    return stepped(q, k, v, torch.zeros(ROWS, steps, dtype=torch.bool), CACHE.initial(ROWS, LIKE))[1], (k, v)


@pytest.mark.parametrize("before", [1, 3, 2 * WINDOW])
@pytest.mark.parametrize("way", [stepped, scanned])
def test_a_step_sees_its_episode_as_far_as_the_window(way, before):
    (q, k, v), reset = drawn(), resets()
    ring, (old_k, old_v) = warm(before)
    outputs, _ = way(q, k, v, reset, ring)
    whole = torch.cat([torch.zeros(ROWS, before, dtype=torch.bool), reset], dim=1)
    past = histories(torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2), whole)
    for n in range(ROWS):
        for t in range(STEPS):
            torch.testing.assert_close(outputs[n, :, t], attended(q[n, :, t], past[n][before + t]))


@pytest.mark.parametrize("steps", [1, 3, STEPS])
def test_both_ways_leave_the_same_ring(steps):
    q, k, v, reset = (*(x[:, :, :steps] for x in drawn()), resets()[:, :steps])
    ring, _ = warm(3)
    one, all_at_once = stepped(q, k, v, reset, ring)[1], scanned(q, k, v, reset, ring)[1]
    assert torch.equal(one["pos"], all_at_once["pos"])
    _, filled = CACHE.step_slots(one["pos"] - 1)
    for key in ("k0", "v0"):
        seen = filled.mT.expand_as(one[key])
        assert torch.equal(one[key][seen], all_at_once[key][seen])


def test_a_slot_knows_which_step_it_holds():
    held, episode = CACHE.slots(torch.tensor([0, 2, 7]))
    assert held.clamp(min=-1).tolist() == [[-1] * 5, [0, 1, -1, -1, -1], [5, 6, 2, 3, 4]]
    assert (episode == NOWHERE).tolist() == [[True] * 5, [False, False, True, True, True], [False] * 5]


def imagined(memory, q, k, v):
    """Outputs [N, h, T, d] of steps that follow imagined rows."""
    outputs = []
    for t in range(q.shape[2]):
        step = (x[:, :, t : t + 1] for x in (q, k, v))
        output, own = CACHE.attend(memory, 0, *step, CACHE.seen(memory))
        outputs.append(output)
        memory = memory | own | {"pos": memory["pos"] + 1}
    return torch.cat(outputs, dim=2), memory


@pytest.mark.parametrize("before", [0, 4])
def test_imagined_rows_go_on_from_every_step_of_a_sequence(before):
    (_, k, v), reset = drawn(), resets()
    ring, (old_k, old_v) = warm(before) if before else (CACHE.initial(ROWS, LIKE), drawn(steps=0)[1:])
    entries = {"k0": k.transpose(1, 2), "v0": v.transpose(1, 2)}
    last = 6
    memory = CACHE.starts(entries, reset, ring, last)
    assert CACHE.sharing(memory) == last
    assert memory["shared_k0"].shape[0] == ROWS
    new_q, new_k, new_v = drawn(rows=ROWS * last, steps=3, seed=5)
    outputs, _ = imagined(memory, new_q, new_k, new_v)
    whole = torch.cat([torch.zeros(ROWS, before, dtype=torch.bool), reset], dim=1)
    past = histories(torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2), whole)
    for row in range(ROWS * last):
        steps = list(past[row // last][before + STEPS - last + row % last])
        for t in range(3):
            steps.append((new_k[row, :, t], new_v[row, :, t]))
            torch.testing.assert_close(outputs[row, :, t], attended(new_q[row, :, t], steps[-WINDOW:]))


def test_a_fork_shares_and_a_selection_copies():
    ring, _ = warm(7)
    forked = CACHE.fork(ring, 2)
    assert forked["shared_k0"] is ring["k0"]
    new = drawn(rows=2 * ROWS, steps=2, seed=5)
    outputs, after = imagined(forked, *new)
    again, rows = CACHE.fork(after, 2), torch.tensor([5, 0])
    assert CACHE.sharing(again) == 4
    assert torch.equal(again["own_k0"], after["own_k0"].repeat_interleave(2, dim=0))
    chosen = CACHE.select(forked, rows)
    assert CACHE.sharing(chosen) == 1
    torch.testing.assert_close(imagined(chosen, *(x[rows] for x in new))[0], outputs[rows])


def test_both_forms_of_a_memory_are_described():
    ring, shared = CACHE.layouts(LIKE)
    assert ring == {"k0": (HEADS, WINDOW, DIM), "v0": (HEADS, WINDOW, DIM), "pos": ()}
    assert shared["own_k0"] == shared["shared_v0"] == (HEADS, None, DIM)
    assert (shared["shared_pos"], shared["root"]) == ((None,), ())
