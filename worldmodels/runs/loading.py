"""Run folders: what a training leaves behind, and how to take it up again."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from planners.base import Planner
from worldmodels.common import precision
from worldmodels.common.trust import extend_trust
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.factory import build_model, build_planner, prefix_rows, require_length
from worldmodels.model import WorldModel
from worldmodels.nets.choices import Discrete
from worldmodels.nets.encoders import ObservationSpec
from worldmodels.runs.edit import learned_prefix, override, require_learned, require_same_model
from worldmodels.runs.folders import AVERAGE, load_weights, observation_spec, read_checkpoint, read_config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A trained run, ready to plan and imagine."""

    path: Path
    cfg: DictConfig
    model: WorldModel
    planner: Planner
    checkpoint: dict[str, Any]

    @property
    def frames(self) -> int:
        """Environment frames the model was trained on."""
        return self.checkpoint["counters"]["frames"]

    @property
    def discrete(self) -> Discrete:
        """Whether actions are one-hot, or of which sizes."""
        return self.checkpoint["spaces"]["discrete"]

    @property
    def action_dim(self) -> int:
        """Numbers in an action."""
        return self.checkpoint["spaces"]["action_dim"]


def load_run(
    path: str | Path, overrides: list[str] | None = None, device: str = "cpu", trust: Iterable[str] = ()
) -> Run:
    """Load a trained run: its configuration, its world model and its planner, with averaged weights.

    Args:
        path: the run folder.
        overrides: ``key=value`` words on top of the run's configuration, ``planner=cem`` for example. A planner with
            learned parts can only be one that was trained.
        device: where the model goes.
        trust: modules that the run may name beside this project's parts, in this process from now on.

    Raises:
        UserError: not a run folder; no whole checkpoint; a checkpoint of another architecture.
    """
    extend_trust(trust)
    path = Path(path)
    before = read_config(path)
    cfg = override(before, overrides or [])
    require_same_model(cfg, before, overrides or [], f": the weights in {path} were trained with another", path)
    checkpoint = read_checkpoint(path)
    spaces = checkpoint["spaces"]
    model = build_model(cfg, observation_spec(checkpoint), spaces["action_dim"])
    planner = build_planner(
        cfg.planner, spaces["action_dim"], spaces["discrete"], model.dynamics.feature_spec, nets=cfg.nets
    )
    require_length(cfg, planner, model.dynamics.max_length, prefix_rows(cfg, model.dynamics))
    load_weights(model, checkpoint, AVERAGE + "model.", checkpoint["file"])
    if list(planner.parameters()):
        require_learned(cfg, before, path)
        load_weights(planner.trainable, checkpoint, learned_prefix(checkpoint), checkpoint["file"])
    return Run(path, cfg, model.to(device).eval(), planner.to(device).eval(), checkpoint)


def open_run(path: str, overrides: list[str]) -> Run:
    """Load a run for a script: where its configuration says, with as many threads as it says."""
    run = load_run(path, overrides)
    if run.cfg.trainer.threads:
        torch.set_num_threads(run.cfg.trainer.threads)
    device = precision.prepared_device(run.cfg.trainer)
    run.model.to(device)
    run.planner.to(device)
    return run


def require_same_spaces(envs: VectorEnv, model: WorldModel, planner: Planner) -> None:
    """Refuse environments that a model was not made for."""
    if (envs.observation_spec, envs.action_dim) != (model.encoder.observations, planner.action_dim):
        raise UserError(
            f"this environment has observations {describe_spec(envs.observation_spec)} and {envs.action_dim} actions, "
            f"the model was made for {describe_spec(model.encoder.observations)} and {planner.action_dim}: use the env "
            "settings it was trained with."
        )


def describe_spec(spec: ObservationSpec) -> str:
    """Observations as a sentence holds them."""
    return ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, (shape, _) in spec.items())
