"""From configuration to objects: the one place that knows both."""

from __future__ import annotations

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from planners.base import Planner
from worldmodels.data.replay import context_rows
from worldmodels.encoders import ObservationSpec
from worldmodels.model import WorldModel

OBSERVATIONS = ("pixels", "state")


def build_model(cfg: DictConfig, observations: ObservationSpec, action_dim: int) -> WorldModel:
    """The world model, initialised from ``cfg.seed`` without disturbing the global random stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        encoder = instantiate(cfg.encoder, observations=observations)
        dynamics = instantiate(cfg.dynamics, embed_dim=encoder.out_dim, action_dim=action_dim)
        heads = {name: instantiate(head, feat_dim=dynamics.feat_dim) for name, head in cfg.heads.items()}
        objectives = [
            instantiate(objective, feat_dim=dynamics.feat_dim, observations=observations)
            for objective in cfg.objective.values()
        ]
        return WorldModel(encoder, dynamics, heads, objectives)


def build_planner(cfg: DictConfig, action_dim: int, discrete: bool) -> Planner:
    """A planner from its group of the configuration."""
    return instantiate(cfg, action_dim=action_dim, discrete=discrete)


def loss_scales(cfg: DictConfig, observations: ObservationSpec) -> dict[str, float]:
    """The configured scales but those of observations that this environment does not give."""
    absent = set(OBSERVATIONS) - observations.keys()
    return {name: scale for name, scale in cfg.loss_scales.items() if name not in absent}


def prefix_rows(cfg: DictConfig) -> int:
    """Rows drawn in front of every training window."""
    return context_rows(cfg.data.context, cfg.data.burn_in)
