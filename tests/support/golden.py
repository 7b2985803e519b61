"""Numbers of reference implementations, and how their weights get into our modules (tests/golden/README.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "golden"
VERSIONS = {
    "dreamerv3": "e11778455deae955f588e8498588cfc6ad953a26983b93908fc1901f7d386243",
    "tdmpc2": "2be0ce20455a64910f63997fe28889d4e3e42643f73dc13464e413fff01bba91",
}
"""SHA-256 of the files that the tables of names were written for."""


class Source(NamedTuple):
    """Where one of our weights, or of its gradients, comes from."""

    name: str
    """Of the golden array."""
    change: Callable[[Tensor], Tensor] = lambda x: x
    """Its layout into ours."""


class Golden:
    """The arrays of one file, as tensors of the default dtype."""

    def __init__(self, name: str, folder: Path = FOLDER) -> None:
        path = folder / f"{name}.npz"
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != VERSIONS[name]:
            raise ValueError(
                f"{path.name} is of another version than the tables of names: its SHA-256 begins with {found[:8]}, "
                f"not with {VERSIONS[name][:8]}."
            )
        with np.load(path) as arrays:
            self.arrays = {key: arrays[key] for key in arrays.files}

    def __getitem__(self, name: str) -> Tensor:
        value = torch.from_numpy(self.arrays[name])
        return value.to(torch.get_default_dtype()) if value.is_floating_point() else value

    def load(self, module: nn.Module, table: Mapping[str, Source]) -> None:
        """Load every parameter of a module from where the table says. Both must name the same."""
        parameters = dict(module.named_parameters())
        if parameters.keys() != table.keys():
            raise ValueError(f"the table and the module differ in {sorted(parameters.keys() ^ table.keys())}")
        with torch.no_grad():
            for name, source in table.items():
                value = source.change(self[f"w/{source.name}"])
                if value.shape != parameters[name].shape:
                    raise ValueError(
                        f"{name} has the layout {tuple(parameters[name].shape)}, and w/{source.name} makes "
                        f"{tuple(value.shape)} of it."
                    )
                parameters[name].copy_(value)


def assert_golden(ours: Tensor, golden: Tensor, double: float = 1e-9, single: float = 1e-5) -> None:
    """Compare at a tolerance relative to the golden array's largest entry, by the precision of ours."""
    tolerance = double if ours.dtype == torch.float64 else single
    assert ours.shape == golden.shape, (tuple(ours.shape), tuple(golden.shape))
    assert (error := (ours - golden).abs().max() / golden.abs().max()) <= tolerance, f"{error:.1e} > {tolerance:.0e}"
