"""From configuration to objects: the one place that knows both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dynamics.goal import GoalConditioned
from planners.base import Planner
from worldmodels.common.batch import context_rows
from worldmodels.common.build import build
from worldmodels.config.nodes import TRAINING_KEYS
from worldmodels.envs.options import GoalReading, read
from worldmodels.errors import OptionError, UserError
from worldmodels.model import WorldModel
from worldmodels.nets.encoders import GoalEncoder, ObservationSpec, without_goal
from worldmodels.nets.layers import init_std

OBSERVATION_KEYS = ("pixels", "state")


def construct(cfg: DictConfig, **options: Any) -> Any:
    """Build what a node of a configuration describes, with ``options`` that only its caller knows."""
    return build(OmegaConf.to_container(cfg, resolve=True), path_of(cfg), **options)


def path_of(cfg: DictConfig) -> str:
    """Where a node stands in its configuration."""
    return str(cfg._get_full_key(None))


def model_nodes(cfg: DictConfig) -> dict[str, Any]:
    """List what :func:`build_model` reads: the nodes that a model's weights depend on."""
    nodes = {key: cfg[key] for key in ("encoder", "dynamics", "heads", "objective")}
    return nodes | {"init_std": cfg.size.init_std}


def build_model(cfg: DictConfig, observations: ObservationSpec, action_dim: int) -> WorldModel:
    """The world model, initialised from ``cfg.seed`` without disturbing the global random stream."""
    with torch.random.fork_rng(devices=[]), init_std(cfg.size.init_std):
        torch.manual_seed(cfg.seed)
        present = without_goal(observations)
        encoder = construct(cfg.encoder, observations=present)
        dynamics = construct(cfg.dynamics, embed_dim=encoder.out_dim, action_dim=action_dim)
        if len(present) < len(observations):
            with located(cfg.env):
                encoder = GoalEncoder(encoder, observations, zero_in_goals(cfg.env))
            dynamics = GoalConditioned(dynamics)
        heads = {
            name: construct(head, feat_dim=dynamics.feat_dim, action_dim=action_dim) for name, head in cfg.heads.items()
        }
        objectives = [
            construct(objective, feat_dim=dynamics.feat_dim - dynamics.goal_dim, observations=present)
            for objective in cfg.objective.values()
        ]
        if all(objective.decoder is None for objective in objectives):
            raise UserError(
                "none of the objectives has a decoder, to show what the latent holds: put a probe beside them, as "
                "configs/objective/probe.yaml does."
            )
        return WorldModel(encoder, dynamics, heads, objectives)


def zero_in_goals(env: DictConfig) -> Sequence[int]:
    """Read which numbers of the state are 0 in every goal."""
    return read(GoalReading, OmegaConf.to_container(env, resolve=True)).goal_zero_indices


@contextmanager
def located(cfg: DictConfig) -> Iterator[None]:
    """Let wrong options say that they stand in this node."""
    try:
        yield
    except OptionError as error:
        raise error.with_path(path_of(cfg)) from None


def build_planner(
    cfg: DictConfig,
    action_dim: int,
    discrete: bool,
    feat_dim: int | None = None,
    seed: int = 0,
    goal_dim: int = 0,
    std: float | None = None,
) -> Planner:
    """A planner from its group of the configuration, initialised likewise; what learns reads ``feat_dim`` features.

    The last ``goal_dim`` of them are a goal's. ``std``: the model's ``size.init_std``.
    """
    options = OmegaConf.to_container(cfg, resolve=True)
    learner = options.get("learner", options)
    for key in TRAINING_KEYS:
        learner.pop(key, None)
    known = {"feat_dim": feat_dim, "goal_dim": goal_dim}
    learner.update({key: value for key, value in known.items() if key in learner})
    with torch.random.fork_rng(devices=[]), init_std(std):
        torch.manual_seed(seed)
        return build(options, path_of(cfg), action_dim=action_dim, discrete=discrete)


def learner_of(cfg: DictConfig) -> DictConfig:
    """The part of a planner's configuration that says what is learned."""
    return cfg.get("learner", cfg)


def loss_scales(cfg: DictConfig, observations: ObservationSpec) -> dict[str, float]:
    """Scales of model and planner, without those of observations that this environment lacks.

    On a frozen world model, the planner's alone.
    """
    absent = set(OBSERVATION_KEYS) - observations.keys()
    own = learner_of(cfg.planner).get("loss_scales", {})
    scales = {**({} if cfg.world_model else cfg.loss_scales), **own}
    return {name: scale for name, scale in scales.items() if name not in absent}


def prefix_rows(cfg: DictConfig) -> int:
    """Rows drawn in front of every training window."""
    with located(cfg.data):
        return context_rows(cfg.data.context, cfg.data.burn_in)


def require_length(cfg: DictConfig, longest: int | None, prefix: int) -> None:
    """Refuse what is longer than a backbone can observe or imagine before anything is done, not when it comes to it."""
    asked = {
        "data.length": cfg.data.length,
        "data.burn_in": prefix,
        "evaluation.context": cfg.evaluation.context,
        "evaluation.imag_horizon": cfg.evaluation.imag_horizon,
        "planner.plan_horizon": cfg.planner.get("plan_horizon", 0),
        "planner.search.plan_horizon": cfg.planner.get("search", {}).get("plan_horizon", 0),
        "planner.imag_horizon": learner_of(cfg.planner).get("imag_horizon", 0),
    }
    for key, steps in asked.items():
        if longest is not None and steps > longest:
            raise UserError(
                f"{key}={steps} is longer than the {longest} steps that dynamics={cfg.choices.dynamics} can see or "
                f"imagine: lower it, or train with a larger dynamics.core.window."
            )
