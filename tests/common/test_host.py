"""The host reads what it holds, and only that."""

from __future__ import annotations

import pytest
import torch

from worldmodels.benchmarks.launches import counting
from worldmodels.common.host import read, send


def test_reading_what_the_host_holds_is_no_wait():
    with counting() as count:
        assert read(torch.tensor([1, 2])) == [1, 2]
        assert read(torch.tensor(True)) is True
    assert count.waits.total() == 0


def test_what_a_device_holds_is_not_read():
    with pytest.raises(ValueError, match="on meta"):
        read(torch.ones(2, device="meta"))


def test_what_is_there_already_is_not_copied():
    x = torch.ones(2)
    assert send(x, torch.device("cpu")) is x
