"""The trainings of `experiment=memory`: which there are, and what each is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from worldmodels.config import load_config
from worldmodels.envs.recall import Recall
from worldmodels.errors import OptionError, UserError

SHORTEST = 4
"""Least steps of a hallway."""
OVERRULED = {
    "dynamics": "memory.backbones",
    "dynamics.posterior": "memory.posteriors",
    "dynamics.free_nats": "memory.free_nats",
    "env": "env=recall",
    "env.delay": "memory.delays",
    "env.cue": "memory.controls",
    "data.length": "memory.delays",
    "data.batch_size": "memory.rows",
    "data.context": "an episode's own beginning",
}
"""Words that are each training's own, and what says them here."""
UNREAD = ("frames", "prefill", "train_ratio", "evaluation", "planner", "prefill_planner")
"""Keys and groups of what is not done here: nobody collects, plans or forecasts."""
LATER = (
    "memory.backbones",
    "memory.posteriors",
    "memory.delays",
    "memory.controls",
    "memory.minutes",
    "memory.workers",
    "trainer.threads",
    "trainer.accelerator",
)
"""Keys that may be given when a run goes on: they leave finished trainings and new ones comparable."""


@dataclass(frozen=True)
class Cell:
    """One training: a backbone, its posterior where it has one, and the episodes it learns from."""

    dynamics: str
    posterior: str | None
    delay: int
    cue: bool

    @property
    def name(self) -> str:
        """Name of the cell's folder."""
        parts = (self.dynamics, self.posterior, str(self.delay), None if self.cue else "control")
        return "-".join(part for part in parts if part)

    @property
    def data(self) -> str:
        """The recording it learns from."""
        return f"{self.delay}" if self.cue else f"{self.delay}-control"

    def words(self, cfg: DictConfig) -> list[str]:
        """Words that are chosen on top of the user's own."""
        length = Recall.length(self.delay)
        latent = [f"dynamics.posterior={self.posterior}", f"dynamics.free_nats={cfg.memory.free_nats}"]
        return [
            *cfg.words,
            f"dynamics={self.dynamics}",
            *(latent if self.posterior else []),
            *(word.format(length=length) for word in cfg.memory.extra.get(self.dynamics, [])),
            f"env.delay={self.delay}",
            f"env.cue={str(self.cue).lower()}",
            f"data.length={length}",
            f"data.batch_size={max(cfg.memory.least_batch, min(cfg.memory.most_batch, cfg.memory.rows // length))}",
        ]


def require_sense(cfg: DictConfig, words: list[str], resume: Path | None) -> None:
    """Refuse what cannot be trained or scored, and words that every cell would overrule or only some would obey."""
    for delay in (*cfg.memory.delays, *cfg.memory.controls):
        if delay < SHORTEST:
            reason = f"leaves no half of the hallway to imagine: {SHORTEST} is the least"
            raise OptionError("memory.delays", delay, reason)
    for word in words:
        key = word.partition("=")[0]
        if key in OVERRULED:
            raise UserError(f"{word} has no effect in experiment=memory, where {OVERRULED[key]} decides.")
        if key.split(".")[0] in UNREAD:
            raise UserError(f"{word} has no effect in experiment=memory, which trains on recordings and plans nothing.")
        if resume and key not in LATER:
            raise UserError(
                f"{word} would be obeyed only by trainings that are not finished; with resume= a memory run takes "
                f"{', '.join(LATER)}."
            )
    for cell in {(cell.dynamics, cell.posterior): cell for cell in cells(cfg)}.values():
        load_config(cell.words(cfg))


def cells(cfg: DictConfig) -> Iterator[Cell]:
    """Short delays first, so that the table grows from the cheap end."""
    for cue, delays in ((False, cfg.memory.controls), (True, cfg.memory.delays)):
        for delay in sorted(delays):
            for name in cfg.memory.backbones:
                has = "posterior" in load_config([f"dynamics={name}"]).dynamics
                for posterior in cfg.memory.posteriors if has else (None,):
                    yield Cell(name, posterior, delay, cue)


def result_file(folder: Path, cell: Cell) -> Path:
    """Return the file of a cell's scores. That it exists means that they are complete."""
    return folder / "cells" / cell.name / "result.json"
