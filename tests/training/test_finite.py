"""What is not finite is refused as soon as it is known, and before anything is kept."""

from __future__ import annotations

import pytest
import torch

from worldmodels.training.finite import BEHIND, FiniteWatch


class Refused(Exception):
    pass


def refuse(names):
    raise Refused(", ".join(names))


class Late:
    """Stands for an event of a GPU: what was copied is there once somebody has waited."""

    def __init__(self):
        self.there = False

    def query(self):
        return self.there

    def synchronize(self):
        self.there = True


@pytest.fixture
def late(monkeypatch):
    """Let flags arrive only when they are waited for."""
    watch, made = FiniteWatch(), []

    def arrive():
        made.append(Late())
        return made[-1]

    monkeypatch.setattr(watch, "_sent", lambda values: (values, arrive()))
    return watch, made


def test_a_cpu_knows_at_once():
    watch = FiniteWatch()
    watch.watch({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, refuse)
    with pytest.raises(Refused, match=r"^b$"):
        watch.watch({"a": torch.tensor(1.0), "b": torch.tensor(torch.nan)}, refuse)


def test_a_device_is_not_waited_for_until_too_much_is_on_its_way(late):
    watch, made = late
    watch.watch({"first": torch.tensor(torch.inf)}, refuse)
    for _ in range(BEHIND - 1):
        watch.watch({"later": torch.tensor(0.0)}, refuse)
    assert not any(event.there for event in made)
    with pytest.raises(Refused, match="first"):
        watch.watch({"later": torch.tensor(0.0)}, refuse)


def test_what_has_arrived_is_looked_at(late):
    watch, made = late
    watch.watch({"first": torch.tensor(torch.inf)}, refuse)
    made[0].there = True
    with pytest.raises(Refused, match="first"):
        watch.watch({"later": torch.tensor(0.0)}, refuse)


def test_nothing_is_kept_before_all_is_known(late):
    watch, _ = late
    watch.watch({"first": torch.tensor(0.0)}, refuse)
    watch.settle()
    watch.watch({"second": torch.tensor(torch.nan)}, refuse)
    with pytest.raises(Refused, match="second"):
        watch.settle()
    watch.settle()  # told once
