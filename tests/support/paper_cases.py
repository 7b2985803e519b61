"""A core beside its paper: every way to run it, in both precisions, against a float64 reference of one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from core_cases import IN, numpy_weights, stepped
from torch import Tensor

from dynamics.base import Core, Memory

STEPS, SEEN = 12, 9
"""Steps of a sequence, and how many of them there are before the rest is imagined."""
PIECES = (4, 5, 3)
"""A sequence observed in parts, each of which continues the memory of the one before."""
EXACT = 1e-9
"""Largest error in float64, in the largest output: what is left is the order of sums, 1e-13 or less at these sizes."""

Weights = Mapping[str, np.ndarray]
Reference = Callable[[Weights, np.ndarray, np.ndarray], np.ndarray]
"""From weights, inputs [T, X] and resets [T] of one row to outputs [T, D]."""


def episodes() -> tuple[Tensor, Tensor]:
    """Inputs [2, T, X] and resets [2, T]: at the start and in the middle, and twice running, after no reset at all."""
    reset = torch.zeros(2, STEPS, dtype=torch.bool)
    reset[0, [0, 5]] = reset[1, [7, 8]] = True
    return torch.randn(2, STEPS, IN, generator=torch.Generator().manual_seed(0)), reset


def named(weights: Weights, prefix: str, names: Mapping[str, str]) -> SimpleNamespace:
    """Weights of a layer by the symbols that a paper has for them."""
    return SimpleNamespace(**{symbol: weights[prefix + key] for symbol, key in names.items()})


def runs(core: Core, x: Tensor, reset: Tensor, memory: Memory) -> Iterator[tuple[str, Tensor]]:
    """Outputs [2, T, D] of each way to take a sequence."""
    if core.max_length is None or core.max_length >= STEPS:
        yield "one scan", core.scan(x, reset, memory)[0]
    yield "steps", stepped(core, x, reset, memory)[0]
    outputs, last = [], memory
    for piece, first in zip(x.split(PIECES, 1), reset.split(PIECES, 1), strict=True):
        output, _, last = core.scan(piece, first, last)
        outputs.append(output)
    yield "scans that continue", torch.cat(outputs, 1)


def imagined(core: Core, x: Tensor, reset: Tensor, memory: Memory, starts: int) -> Tensor:
    """Outputs [2, starts, 3, D] of the last inputs, from each of the ``starts`` steps before them."""
    _, memory = stepped(core, x[:, : PIECES[0]], reset[:, : PIECES[0]], memory)
    now = slice(PIECES[0], SEEN)
    _, entries, _ = core.scan(x[:, now], reset[:, now], memory)
    rows, outputs = core.starts(entries, reset[:, now], memory, starts), []
    for ahead in x[:, SEEN:].unbind(1):
        output, rows = core.step(ahead.repeat_interleave(starts, 0), None, rows)
        outputs.append(output)
    return torch.stack(outputs, 1).unflatten(0, (2, starts))


@contextmanager
def in_double(core: Core) -> Iterator[Core]:
    """The core in float64, and with it all numbers that it makes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield deepcopy(core).double()
    finally:
        torch.set_default_dtype(before)


def error(found: Tensor, expected: np.ndarray) -> float:
    """Largest difference, in the largest number."""
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


def errors(core: Core, reference: Reference, x: Tensor, reset: Tensor, memory: Memory) -> dict[str, float]:
    weights, inputs, first = numpy_weights(core), x.double().numpy(), reset.numpy()
    expected = np.stack([reference(weights, *row) for row in zip(inputs, first, strict=True)])
    found = {way: error(outputs, expected) for way, outputs in runs(core, x, reset, memory)}
    ahead = np.stack(
        [
            reference(
                weights,
                np.concatenate([inputs[row, : SEEN - back], inputs[row, SEEN:]]),
                np.concatenate([first[row, : SEEN - back], np.zeros(STEPS - SEEN, bool)]),
            )[SEEN - back :]
            for row in range(2)
            for back in (2, 1, 0)
        ]
    )
    outputs = imagined(core, x, reset, memory, starts=3)
    return found | {"imagined": error(outputs, ahead.reshape(outputs.shape))}


@torch.no_grad()
def assert_is(core: Core, reference: Reference, single: float) -> None:
    """Hold a core against a reference within :data:`EXACT` in float64 and within ``single`` in float32.

    Chunks of scans are of 4 steps, so that sequences have several.
    """
    x, reset = episodes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dynamics.scan.CHUNK", 4)
        patch.setattr("dynamics.mamba_scan.CHUNK", 4)
        found = errors(core, reference, x, reset, core.initial(2))
        with in_double(core) as exact:
            exactly = errors(exact, reference, x.double(), reset, exact.initial(2))
    assert max(exactly.values()) < EXACT, exactly
    assert max(found.values()) < single, found
