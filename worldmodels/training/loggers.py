"""Loggers by words: ``trainer.loggers=[tensorboard,wandb]``, each a node of ``loggers=``, with frames as their step.

Any of Lightning's will do. Pictures go to those that can show them.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from worldmodels.common.build import TARGET
from worldmodels.common.frames import add_gif, gif_bytes
from worldmodels.errors import UserError, near_match
from worldmodels.factory import construct, parameters_of
from worldmodels.training.logs import FrameCurves, MetricsCsv, without_epoch

Clock = Callable[[], int]
MLFLOW_RUN = "mlflow_run.txt"
"""File of a run folder that tells which run of MLflow a resumed training goes on with."""


class OnFrames(Logger):
    """A logger of Lightning's whose step is the number of frames so far, not Lightning's count of batches."""

    def __init__(self, logger: Logger, clock: Clock) -> None:
        super().__init__()
        self.logger, self._clock = logger, clock

    @property
    @override
    def name(self) -> str | None:
        return self.logger.name

    @property
    @override
    def version(self) -> str | int | None:
        return self.logger.version

    @override
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.logger.log_metrics(without_epoch(metrics), self._clock())

    @override
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self.logger.log_hyperparams(*args, **kwargs)

    @override
    def save(self) -> None:
        self.logger.save()

    @override
    def finalize(self, status: str) -> None:
        self.logger.finalize(status)


def build_loggers(cfg: DictConfig, folder: Path, clock: Clock, resumed_at: int) -> list[Logger]:
    """Build the loggers that ``trainer.loggers`` names, and the one that writes metrics.csv.

    Raises:
        UserError: no logger of that name; one whose package is not installed.
    """
    known = {"folder": folder, "clock": clock, "resumed_at": resumed_at}
    built = []
    for name in cfg.trainer.loggers:
        if name not in cfg.loggers:
            raise UserError(
                f"trainer.loggers holds {name!r}, which is not one of {', '.join(cfg.loggers)}."
                f"{near_match(name, cfg.loggers)}",
                option="trainer.loggers",
                value=name,
                allowed=tuple(cfg.loggers),
            )
        node = cfg.loggers[name]
        given = {key: value for key, value in known.items() if key in parameters_of(node[TARGET], f"loggers.{name}")}
        try:
            logger = construct(node, **given)
        except ModuleNotFoundError as error:
            raise UserError(
                f"trainer.loggers={name} needs a package that is not installed: "
                "pip install wandb or mlflow, or both with '.[loggers]'.",
                option="trainer.loggers",
                value=name,
            ) from error
        built.append(logger if isinstance(logger, FrameCurves) else OnFrames(logger, clock))
    return [*built, MetricsCsv(folder / "metrics.csv", clock, resumed_at)]


def wandb(folder: Path, project: str, offline: bool, **options: Any) -> WandbLogger:
    """Build Weights & Biases' logger. A resumed run goes on in the same place there."""
    return WandbLogger(
        name=folder.name, id=folder.name, save_dir=folder, project=project, offline=offline, resume="allow", **options
    )


def mlflow(folder: Path, experiment_name: str, tracking_uri: str | None, **options: Any) -> MLFlowLogger:
    """Build MLflow's logger. A resumed run goes on in the same place there."""
    kept, beside = folder / MLFLOW_RUN, folder.resolve().parent
    logger = MLFlowLogger(
        experiment_name=experiment_name,
        run_name=folder.name,
        run_id=kept.read_text().strip() if kept.exists() else None,
        tracking_uri=tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{beside / 'mlflow.db'}",
        artifact_location=None if tracking_uri else (beside / "mlflow").as_uri(),
        **options,
    )
    kept.write_text(f"{logger.run_id}\n")
    return logger


@singledispatch
def show_clip(logger: Logger, tag: str, frames: UInt8[np.ndarray, "T H W 3"], step: int) -> None:
    """Show an animation where a logger can; others show none."""


@singledispatch
def show_figure(logger: Logger, tag: str, figure: Figure, step: int) -> None:
    """Show a figure where a logger can; others show none."""


@show_clip.register
def _(logger: OnFrames, tag: str, frames: np.ndarray, step: int) -> None:
    show_clip(logger.logger, tag, frames, step)


@show_figure.register
def _(logger: OnFrames, tag: str, figure: Figure, step: int) -> None:
    show_figure(logger.logger, tag, figure, step)


@show_clip.register
def _(logger: TensorBoardLogger, tag: str, frames: np.ndarray, step: int) -> None:
    add_gif(logger.experiment, tag, frames, step)


@show_figure.register
def _(logger: TensorBoardLogger, tag: str, figure: Figure, step: int) -> None:
    logger.experiment.add_figure(tag, figure, step)


@show_clip.register
def _(logger: WandbLogger, tag: str, frames: np.ndarray, step: int) -> None:
    logger.log_video(tag, [io.BytesIO(gif_bytes(frames))], step, format=["gif"])


@show_figure.register
def _(logger: WandbLogger, tag: str, figure: Figure, step: int) -> None:
    logger.log_image(tag, [figure], step)


@show_clip.register
def _(logger: MLFlowLogger, tag: str, frames: np.ndarray, step: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{step}.gif"
        path.write_bytes(gif_bytes(frames))
        logger.experiment.log_artifact(logger.run_id, str(path), tag)


@show_figure.register
def _(logger: MLFlowLogger, tag: str, figure: Figure, step: int) -> None:
    logger.experiment.log_figure(logger.run_id, figure, f"{tag}/{step}.png")


def log_scores(loggers: Sequence[Logger], result: Mapping[str, Any], words: Mapping[str, Any], step: int) -> None:
    """Log a finished training's returns and those of its baselines, and what it was made of.

    Args:
        loggers: of the training.
        result: what evaluation.json holds.
        words: what chose the run, by name.
        step: where the curves end.
    """
    scores = {
        "evaluation/return": result["return_mean"],
        "evaluation/return_exploring": result["return_stochastic_mean"],
    }
    scores |= {f"evaluation/{key}": result[key] for key in ("success_rate", "normalized_score") if key in result}
    lines = {f"evaluation/baseline_{name}": value for name, value in result["baselines"].items()}
    for logger in loggers:
        if not isinstance(logger, MetricsCsv):
            show_scores(logger, scores, lines, words, step)


@singledispatch
def show_scores(
    logger: Logger, scores: Mapping[str, float], lines: Mapping[str, float], words: Mapping[str, Any], step: int
) -> None:
    """Log scores, and the words of the run as its hyperparameters."""
    logger.log_hyperparams(dict(words))
    logger.log_metrics({**scores, **lines}, step)
    logger.save()


@show_scores.register
def _(
    logger: TensorBoardLogger,
    scores: Mapping[str, float],
    lines: Mapping[str, float],
    words: Mapping[str, Any],
    step: int,
) -> None:
    """Draw baselines as lines over all steps, in one chart with the returns, and fill the tab of hyperparameters."""
    with SummaryWriter(logger.log_dir) as writer:  # the training's own is closed, and would drop what it wrote
        for name, value in lines.items():
            for at in (0, step):
                writer.add_scalar(name, value, at)
        chart = ["episode/return", *scores, *lines]
        writer.add_custom_scalars({"returns": {"beside what learns nothing": ["Multiline", chart]}})
        writer.add_hparams(dict(words), dict(scores), run_name=".", global_step=step)
