"""Parts that somebody else might write, one of each kind; nothing in the packages knows of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from dynamics.base import Core, Memory, clear_rows
from planners.base import Decision, Planner
from worldmodels.data.readers.base import Reader, Recording, recording
from worldmodels.heads.base import Head
from worldmodels.nets.layers import MLP
from worldmodels.objectives.base import Context, Objective


class SpeedHead(Head):
    """Predicts how far the next feature is, without shaping the latent."""

    trains_latent = False

    def __init__(self, feat_dim: int, action_dim: int, units: int) -> None:
        super().__init__()
        self.net = MLP(feat_dim + action_dim, units, 1, 1)

    def forward(self, feat: Float[Tensor, "... H1 F"], action: Float[Tensor, "... H A"]) -> Float[Tensor, "... H"]:
        return self.net(torch.cat([feat[..., :-1, :], action], dim=-1)).squeeze(-1)

    def loss(self, rollout, batch) -> Float[Tensor, "B T"]:
        moved = (rollout.post[:, 1:] - rollout.post[:, :-1]).norm(dim=-1)
        error = (self(rollout.feat, batch["action"][:, 1:]) - moved).square()
        return F.pad(torch.where(batch["reset"][:, 1:], 0.0, error), (1, 0))


class Small(Objective):
    """Pulls features towards zero."""

    def __init__(self, feat_dim: int, observations: dict) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(feat_dim))
        self.steps = 0

    def forward(self, rollout, embed, batch, context: Context) -> dict[str, Tensor]:
        assert context.planner is not None
        return {"small": (self.scale * rollout.feat).square().mean(-1)}

    def after_step(self, model) -> None:
        self.steps += 1


class Total(Core):
    """Remembers the running sum of its inputs."""

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        self.out_dim = in_dim
        self.scale = torch.nn.Parameter(torch.ones(()))

    def initial(self, n: int) -> Memory:
        return {"sum": self.scale.new_zeros(n, self.out_dim)}

    def step(self, x, reset, memory):
        if reset is not None:
            memory = clear_rows(memory, reset, self.initial(len(x)))
        total = memory["sum"] + x.float()
        return self.scale * total, {"sum": total}


class Alternating(Planner):
    """Full throttle one way, then the other."""

    def initial(self, n: int) -> Memory:
        return {"sign": torch.ones(n)}

    def _act(self, decision: Decision, memory: Memory) -> tuple[Tensor, Memory]:
        action = memory["sign"][:, None].expand(-1, self.action_dim).contiguous()
        return action, {"sign": -memory["sign"]}


class TextReader(Reader):
    """Reads text files of numbers: states, then the action, then the reward, a row a line."""

    suffixes = (".txt",)

    def read(self, name: str) -> Iterator[Recording]:
        rows = np.loadtxt(name, dtype=np.float32)
        yield recording(name, {"state": rows[:, :-2]}, rows[:, -2:-1], rows[:, -1], terminal=False)


class TextLogger(Logger):
    """Writes what it is told into a text file: the step, and the names."""

    name, version = "text", 0

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "told.txt"

    def log_metrics(self, metrics, step=None) -> None:
        with self.path.open("a") as file:
            file.write(f"{step} {' '.join(sorted(metrics))}\n")

    def log_hyperparams(self, params) -> None:
        with self.path.open("a") as file:
            file.write(" ".join(f"{key}={value}" for key, value in params.items()) + "\n")


def write_name(run, seed: int) -> None:
    """A picture of sorts: what a run is called, in a file."""
    (Path(run.path) / "name.txt").write_text(f"{run.cfg.choices.planner} {seed}")


def needs_a_package() -> Logger:
    """A logger whose package nobody installed."""
    raise ModuleNotFoundError("No module named 'elsewhere'")
