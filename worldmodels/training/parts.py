"""Parts of a training: which are frozen, which are new, and the optimiser's options that each brings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from planners.learning.learner import AUTO, discount_of
from worldmodels.config.scales import parts_of
from worldmodels.errors import UserError
from worldmodels.model import WorldModel
from worldmodels.runs.folders import AVERAGE, load_weights, read_checkpoint


def freeze(model: WorldModel, cfg: DictConfig, resumed_at: int) -> None:
    """Give a model the weights of ``cfg.world_model`` for good. One that is resumed finds them in its checkpoint.

    Heads and objectives that the other run lacks begin with weights of their own, and learn.
    """
    if not resumed_at:
        checkpoint = read_checkpoint(Path(cfg.world_model))
        known = {place: part for place, part in model.parts.items() if place not in cfg.new_parts}
        for place, part in {"encoder": model.encoder, **known}.items():
            load_weights(part, checkpoint, f"{AVERAGE}{module_of(place, cfg)}.", checkpoint["file"])
    learned = [model.parts[place] for place in cfg.new_parts]
    for part in (model.encoder, *model.parts.values()):
        if part not in learned:
            part.requires_grad_(False)


def new_parts(cfg: DictConfig, before: DictConfig) -> list[str]:
    """Return the places of heads and objectives that a run's configuration lacks."""
    return [f"{group}.{name}" for group in ("objective", "heads") for name in cfg[group] if name not in before[group]]


def without(cfg: DictConfig, places: Sequence[str]) -> DictConfig:
    """Return a configuration without some of its parts."""
    cfg = cfg.copy()
    with open_dict(cfg):
        for group, _, name in (place.partition(".") for place in places):
            del cfg[group][name]
    return cfg


def parts(cfg: DictConfig, learning: Collection[str] | None = None) -> dict[str, dict[str, float]]:
    """Return the optimiser's options by part, those that each part brings for parts of its own among them.

    ``learning`` names the places of parts that are not frozen. None: all.
    """
    named = OmegaConf.to_container(cfg.optimizer, resolve=True)["param_groups"] or {}
    if not isinstance(named, dict) or not all(isinstance(own, dict) for own in named.values()):
        raise UserError(
            f"optimizer.param_groups={named} must name parts and their options, such as "
            "{model.encoder: {lr: 1e-4}}; the rate of all others is optimizer.lr."
        )
    every = {}
    for place, part in parts_of(cfg).items():
        if learning is not None and place not in learning:
            continue
        own = OmegaConf.to_container(part.get("parts") or OmegaConf.create({}))
        every |= {f"{module_of(place, cfg)}.{name}": options for name, options in own.items()}
    every |= named
    return {part: {key: v for key, v in options.items() if v is not None} for part, options in every.items()}


def module_of(place: str, cfg: DictConfig) -> str:
    """Return the name, in the LightningModule, of the part at a place of the configuration."""
    if place == "planner":
        return "planner.learner" if "learner" in cfg.planner else "planner"
    return "model." + place.replace("objective.", "objectives.")


def work_out_discounts(planner: DictConfig, decisions: int | None) -> None:
    """Put numbers in the place of discounts that are ``auto``, for episodes of so many decisions.

    Raises:
        UserError: no limit of the episodes is known.
    """
    for key, value in planner.items():
        if isinstance(value, DictConfig):
            work_out_discounts(value, decisions)
        elif key == "gamma" and value == AUTO:
            if decisions is None:
                raise UserError(
                    "planner.learner.gamma=auto follows from the length of episodes, which has no known limit: say "
                    "a number, or set env.max_episode_steps.",
                    option="planner.learner.gamma",
                    value=AUTO,
                )
            planner[key] = discount_of(decisions)
