"""The device of a run, and in what its products are computed there."""

from __future__ import annotations

import pytest
import torch

from worldmodels.common import precision


@pytest.fixture
def gpu(monkeypatch):
    """A GPU to PyTorch's word, and its settings, which are put back."""
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [part.fp32_precision for part in parts]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    yield parts
    for part, value in zip(parts, before, strict=True):
        part.fp32_precision = value


@pytest.mark.parametrize(("tf32", "said"), [(True, "tf32"), (False, "ieee")])
def test_products_on_a_gpu_are_as_asked(gpu, tf32, said):
    for part in gpu:
        part.fp32_precision = "ieee" if tf32 else "tf32"
    assert precision.prepared_device({"accelerator": "auto", "tf32": tf32}).type == "cuda"
    assert [part.fp32_precision for part in gpu] == [said, said]


def test_a_cpu_is_left_alone(gpu):
    before = [part.fp32_precision for part in gpu]
    assert precision.prepared_device({"accelerator": "cpu", "tf32": True}).type == "cpu"
    assert [part.fp32_precision for part in gpu] == before
