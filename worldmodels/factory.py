"""From configuration to objects: the one place that knows both."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Collection, Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dynamics.base import FeatureSpec
from dynamics.goal import GoalConditioned
from planners.base import Planner
from worldmodels.common.batch import context_rows
from worldmodels.errors import UserError
from worldmodels.model import WorldModel
from worldmodels.nets.encoders import GoalEncoder, ObservationSpec, without_goal
from worldmodels.scales import learner_of, scales_by_part

OBSERVATION_KEYS = ("pixels", "state")
TRAINING_KEYS = ("loss_scales", "parts")
"""What a part's configuration says about its training: the scales of its losses, the optimiser's options by part."""


def construct(cfg: DictConfig, **options: Any) -> Any:
    """Hydra's instantiate without its hand on ``options``, which it would turn into configuration objects.

    Nor its traceback: raises :class:`UserError`, the constructor's own where it raised one.
    """
    try:
        return instantiate(cfg, _partial_=True, _convert_="all")(**options)
    except (InstantiationException, TypeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, UserError):
            raise cause from None
        reason = " ".join(str(cause).split())
        raise UserError(f"{cfg.get('_target_')} cannot be built as configured: {reason}") from error


def with_style(node: Any, nets: Mapping[str, Any]) -> Any:
    """Return a plain configuration in which every constructor that takes a ``style`` is given the one of ``nets=``."""
    if isinstance(node, list):
        return [with_style(item, nets) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: with_style(value, nets) for key, value in node.items()}
    if "_target_" in node and "style" in parameters_of(node["_target_"]):
        node.setdefault("style", dict(nets))
    return node


def styled(cfg: DictConfig, nets: DictConfig) -> DictConfig:
    """:func:`with_style`, of configurations."""
    return OmegaConf.create(with_style(OmegaConf.to_container(cfg), OmegaConf.to_container(nets)))


def parameters_of(target: str) -> Collection[str]:
    """Return the names of a constructor's parameters; none where there is no such constructor."""
    try:
        return inspect.signature(pkgutil.resolve_name(target)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        return ()


def without_training_keys(cfg: DictConfig) -> DictConfig:
    """Return a part's configuration as its constructor wants it."""
    return OmegaConf.create({key: v for key, v in OmegaConf.to_container(cfg).items() if key not in TRAINING_KEYS})


def build_model(cfg: DictConfig, observations: ObservationSpec, action_dim: int) -> WorldModel:
    """The world model, initialised from ``cfg.seed`` without disturbing the global random stream."""

    def build(part: DictConfig, **options: Any) -> Any:
        return construct(styled(without_training_keys(part), cfg.nets), **options)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        present = without_goal(observations)
        encoder = build(cfg.encoder, observations=present)
        dynamics = build(cfg.dynamics, embed_dim=encoder.embed_shape[-1], action_dim=action_dim)
        if len(present) < len(observations):
            encoder = GoalEncoder(encoder, observations, cfg.env.get("still", []))
            dynamics = GoalConditioned(dynamics)
        heads = {
            name: build(head, feat_dim=dynamics.feat_dim, action_dim=action_dim) for name, head in cfg.heads.items()
        }
        objectives = {
            name: build(objective, feat_dim=dynamics.feat_dim - dynamics.goal_dim, observations=present)
            for name, objective in cfg.objective.items()
        }
        if all(objective.decoder is None for objective in objectives.values()):
            raise UserError(
                "none of the objectives has a decoder, to show what the latent holds: put a probe beside them, as "
                "configs/objective/probe.yaml does."
            )
        return WorldModel(encoder, dynamics, heads, objectives)


def build_planner(
    cfg: DictConfig,
    action_dim: int,
    discrete: bool,
    features: FeatureSpec | None = None,
    seed: int = 0,
    nets: DictConfig | None = None,
) -> Planner:
    """A planner from its group of the configuration, initialised likewise.

    ``features``: of the model that it learns on, in which the constructor of what learns finds the ``feat_dim`` and
    ``goal_dim`` that it names. ``nets``: the style of its networks; None: the default.
    """
    options = OmegaConf.create(OmegaConf.to_container(cfg))
    for key in TRAINING_KEYS:
        learner_of(options).pop(key, None)
    learner = learner_of(options)
    known = {} if features is None else {"feat_dim": features.feat_dim, "goal_dim": features.goal_dim}
    learner.update({key: value for key, value in known.items() if key in parameters_of(learner._target_)})
    if nets is not None:
        options = styled(options, nets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return construct(options, action_dim=action_dim, discrete=discrete)


def loss_scales(
    cfg: DictConfig, observations: ObservationSpec, learning: Collection[str] | None = None
) -> dict[str, float]:
    """Return the scale of every loss, without those of observations that there are none of.

    ``learning`` names the places of parts that are not frozen; None: all.
    """
    absent = set(OBSERVATION_KEYS) - observations.keys()
    return {
        name: scale
        for place, scales in scales_by_part(cfg).items()
        for name, scale in scales.items()
        if name not in absent and (learning is None or place in learning)
    }


def prefix_rows(cfg: DictConfig) -> int:
    """Rows drawn in front of every training window."""
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
