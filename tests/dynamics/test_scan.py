"""The scan that every linear backbone is trained with: the loop's numbers and gradients, for a loop's work."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dynamics.scan import CHUNK, linear_scan, reset_decay

LENGTHS = (1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, CHUNK**2 + 3)


def loop(a, b, h):
    steps = []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        steps.append(h)
    return torch.stack(steps, dim=1)


def problem(length, dtype, a_shape=(5, 2)):
    generator = torch.Generator().manual_seed(length)

    def draw(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_()

    return draw(3, length, *a_shape), draw(3, length, 5, 2), draw(3, 5, 2)


@pytest.mark.parametrize("a_shape", [(5, 2), (5, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_values_and_gradients_are_the_loops(length, dtype, a_shape):
    a, b, h = problem(length, dtype, a_shape)
    a = (0.7 * a).detach().requires_grad_()
    found, expected = linear_scan(a, b, h), loop(a, b, h)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((y * weight).abs().square().sum(), (a, b, h)) for y in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_inputs_are_left_as_they_are():
    a, b, h = problem(40, torch.float32)
    before = [x.detach().clone() for x in (a, b, h)]
    linear_scan(a, b, h).sum().backward()
    assert all(torch.equal(x, y) for x, y in zip((a, b, h), before, strict=True))


def test_a_reset_is_a_decay_of_zero():
    _, b, h = problem(40, torch.complex64)
    decay = torch.rand(5, 2).cfloat()
    reset = torch.zeros(3, 40, dtype=torch.bool)
    reset[0, 17] = reset[1, 0] = True
    states = linear_scan(reset_decay(decay, reset), b, h)
    fresh = linear_scan(reset_decay(decay, reset[:, 17:]), b[:, 17:], h)
    torch.testing.assert_close(states[0, 17:], fresh[0])
    torch.testing.assert_close(states[0, 17], b[0, 17])
    torch.testing.assert_close(states[1, 0], b[1, 0])
    changed = b.detach().clone()
    changed[0, :17] += 1
    assert torch.equal(linear_scan(reset_decay(decay, reset), changed, h)[0, 17:], states[0, 17:])


class Work(TorchDispatchMode):
    """Counts numbers multiplied, and calls."""

    def __init__(self):
        super().__init__()
        self.numbers = self.calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if "mul" in function.name():
            self.numbers += out.numel()
            self.calls += 1
        return out


def test_linear_scan__work_is_linear_rounds_are_logarithmic():
    """Numbers computed grow with the length and calls with its logarithm, the backward pass included."""
    counts = {}
    for length in (CHUNK**2, CHUNK**3):
        a, b, h = problem(length, torch.float32)
        with Work() as work:
            linear_scan(a, b, h).sum().backward()
        counts[length] = work
    short, long = counts.values()
    assert long.numbers <= 1.05 * CHUNK * short.numbers
    assert short.calls < long.calls <= 1.6 * short.calls
