"""From configuration to objects: the one place that knows both."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dynamics.base import Dynamics, FeatureSpec
from dynamics.goal import GoalConditioned
from planners.base import Planner
from worldmodels.common.batch import context_rows
from worldmodels.common.build import build, find
from worldmodels.common.choices import ContextMode
from worldmodels.common.columns import PIXELS, STATE, cameras
from worldmodels.config.nodes import TRAINING_KEYS
from worldmodels.config.scales import learner_of, scales_by_part
from worldmodels.envs.options import GoalReading, read
from worldmodels.errors import OptionError, UserError
from worldmodels.model import WorldModel
from worldmodels.nets.choices import Discrete
from worldmodels.nets.encoders import ObservationSpec
from worldmodels.nets.goal_encoder import GoalEncoder, without_goal


def construct(cfg: DictConfig, **options: Any) -> Any:
    """Build what a node of a configuration describes, with ``options`` that only its caller knows."""
    return build(plain(cfg), path_of(cfg), **options)


def path_of(cfg: DictConfig) -> str:
    """Return the place of a node in its configuration."""
    return str(cfg._get_full_key(None))


def model_nodes(cfg: DictConfig) -> dict[str, Any]:
    """List what :func:`build_model` reads: the nodes that a model's weights depend on."""
    named = {f"{group}.{name}": node for group in ("heads", "objective") for name, node in cfg[group].items()}
    nodes = {"encoder": cfg.encoder, "dynamics": cfg.dynamics, **named}
    return {place: without_training_keys(node) for place, node in nodes.items()} | {"nets": plain(cfg.nets)}


def filled_in(node: Any, **known: Any) -> Any:
    """Return a plain configuration in which every constructor is given what it takes of ``known`` by name."""
    if isinstance(node, list):
        return [filled_in(item, **known) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: filled_in(value, **known) for key, value in node.items()}
    if isinstance(node.get("_target_"), str):
        taken = parameters_of(node["_target_"])
        node = {key: value for key, value in known.items() if key in taken} | node
    return node


def parameters_of(target: str, path: str = "") -> Collection[str]:
    """Return the names of a constructor's parameters. One that is written in C tells none."""
    try:
        return inspect.signature(find(target, path)).parameters
    except ValueError:
        return ()


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return a node as plain containers, resolved."""
    return OmegaConf.to_container(cfg, resolve=True)


def without_training_keys(cfg: DictConfig) -> dict[str, Any]:
    """Return a part's node as its constructor wants it."""
    return {key: value for key, value in plain(cfg).items() if key not in TRAINING_KEYS}


def build_model(cfg: DictConfig, observations: ObservationSpec, action_dim: int) -> WorldModel:
    """The world model, initialised from ``cfg.seed`` without disturbing the global random stream."""

    def part(node: DictConfig, known: Mapping[str, Any] | None = None, **options: Any) -> Any:
        filled = filled_in(without_training_keys(node), style=plain(cfg.nets), **(known or {}))
        return build(filled, path_of(node), **options)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        present = without_goal(observations)
        encoder = part(cfg.encoder, observations=present)
        dynamics = part(cfg.dynamics, embed_dim=encoder.embed_shape[-1], action_dim=action_dim)
        known = {"memory_dim": dynamics.memory_dim}
        if len(present) < len(observations):
            with located(cfg.env):
                encoder = GoalEncoder(encoder, observations, zero_in_goals(cfg.env))
            dynamics = GoalConditioned(dynamics)
        heads = {
            name: part(head, feat_dim=dynamics.feat_dim, action_dim=action_dim) for name, head in cfg.heads.items()
        }
        objectives = {
            name: part(objective, known, feat_dim=dynamics.feat_dim - dynamics.goal_dim, observations=present)
            for name, objective in cfg.objective.items()
        }
        if all(objective.decoder is None for objective in objectives.values()):
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
    discrete: Discrete,
    features: FeatureSpec | None = None,
    seed: int = 0,
    nets: DictConfig | None = None,
) -> Planner:
    """Build a planner from its group of the configuration, initialised likewise.

    ``features``: of the model that it learns on, in which the constructor of what learns finds the ``feat_dim`` and
    ``goal_dim`` that it names. ``nets``: the style of its networks. None: the default.
    """
    options = plain(cfg)
    learner = learner_of(options)
    for key in TRAINING_KEYS:
        learner.pop(key, None)
    known = {} if features is None else {"feat_dim": features.feat_dim, "goal_dim": features.goal_dim}
    taken = parameters_of(learner["_target_"], path_of(cfg))
    learner.update({key: value for key, value in known.items() if key in taken})
    if nets is not None:
        options = filled_in(options, style=plain(nets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(options, path_of(cfg), action_dim=action_dim, discrete=discrete)


def loss_scales(
    cfg: DictConfig, observations: ObservationSpec, learning: Collection[str] | None = None
) -> dict[str, float]:
    """Return the scale of every loss, without those of observations that there are none of.

    Further cameras have the first one's, unless they are named. ``learning`` names the places of parts that are not
    frozen. None: all.
    """
    absent = {PIXELS, STATE} - observations.keys()
    found = {
        name: scale
        for place, scales in scales_by_part(cfg).items()
        for name, scale in scales.items()
        if name not in absent and (learning is None or place in learning)
    }
    further = cameras(observations)[1:] if PIXELS in found else []
    return found | {camera: cfg.loss_scales.get(camera, found[PIXELS]) for camera in further}


def context_mode(cfg: DictConfig, dynamics: Dynamics) -> ContextMode:
    """Return ``data.context``, or what ``auto`` means: stored latents where a memory is long and can be stored."""
    if cfg.data.context != "auto":
        return cfg.data.context
    return "latent" if dynamics.long_memory and not cfg.data.dataset else "none"


def prefix_rows(cfg: DictConfig, dynamics: Dynamics) -> int:
    """Rows drawn in front of every training window."""
    with located(cfg.data):
        return context_rows(context_mode(cfg, dynamics), cfg.data.burn_in)


def require_length(cfg: DictConfig, planner: Planner, longest: int | None, prefix: int) -> None:
    """Refuse what is longer than a backbone can observe or imagine before anything is done, not when it comes to it."""
    asked = {
        "data.length": cfg.data.length,
        "data.burn_in": prefix,
        "evaluation.context": cfg.evaluation.context,
        "evaluation.imag_horizon": cfg.evaluation.imag_horizon,
        **{f"planner.{option}": steps for option, steps in planner.horizons.items()},
    }
    for key, steps in asked.items():
        if longest is not None and steps > longest:
            raise UserError(
                f"{key}={steps} is longer than the {longest} steps that dynamics={cfg.choices.dynamics} can see or "
                f"imagine: lower it, or train with a larger dynamics.core.window.",
                option=key,
                value=steps,
                allowed=longest,
            )
