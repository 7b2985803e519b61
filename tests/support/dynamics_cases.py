"""Backbones under test: every file of configs/dynamics, with every choice it offers."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from dynamics.base import Dynamics
from dynamics.latent import POSTERIORS
from worldmodels.config import config_dir, load_config
from worldmodels.factory import without_training_keys
from worldmodels.testing.sequences import ACTION, EMBED

TINY = (
    "size=xs",
    "size.deter=32",
    "size.hidden=32",
    "size.blocks=4",
    "size.groups=4",
    "size.classes=5",
    "size.depth=2",
    "size.units=16",
    "size.layers=2",
    "data.length=64",  # which the transformer's window is as long as
)
SPACES = tuple(sorted(path.stem for path in (config_dir() / "latent").glob("*.yaml")))


@cache
def config(name: str, space: str | None = None) -> DictConfig:
    """The whole training configuration with this backbone and latent space, tiny; do not change it."""
    return load_config([f"dynamics={name}", *([f"latent={space}"] if space else []), *TINY])


@dataclass(frozen=True)
class Subject:
    """One backbone, with one posterior and one latent space where it has such a choice."""

    name: str
    posterior: str | None = None
    space: str | None = None

    def __str__(self) -> str:
        return "-".join(part for part in (self.name, self.posterior, self.space) if part)

    def build(self, seed: int = 0, **options: object) -> Dynamics:
        """As configured; an option replaces a key that the backbone has, and is ignored by one that has not."""
        cfg = deepcopy(config(self.name, self.space).dynamics)
        with open_dict(cfg):
            choices = {"posterior": self.posterior, **options}
            cfg.update({key: value for key, value in choices.items() if key in cfg and value is not None})
        torch.manual_seed(seed)
        return instantiate(without_training_keys(cfg), embed_dim=EMBED, action_dim=ACTION)


def subjects() -> list[Subject]:
    """Every backbone that has a file, times the choices it offers."""
    found = []
    for path in sorted((config_dir() / "dynamics").glob("[!_]*.yaml")):
        cfg = config(path.stem).dynamics
        found += [
            Subject(path.stem, posterior, space)
            for posterior in (POSTERIORS if "posterior" in cfg else (None,))
            for space in (SPACES if "core" in cfg else (None,))
        ]
    return found
