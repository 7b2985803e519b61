"""Recordings of ours: the environment of the recording, held against the one that is to learn from it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from worldmodels.data.readers.own import own_folder
from worldmodels.errors import UserError
from worldmodels.runs.folders import CONFIG, read_config

log = logging.getLogger(__name__)

DRAWN = ("camera", "render.quality")
"""Settings of an environment that change its frames."""


def require_same_world(name: str | Sequence[str], env: DictConfig) -> None:
    """Refuse a recording of ours with other decisions or frames. Warn of another task, which may be meant."""
    for one in [name] if isinstance(name, str) else name:
        place = own_folder(Path(one))
        folders = [] if place is None else [place, place.parent]
        folder = next((folder for folder in folders if (folder / CONFIG).is_file()), None)
        if folder is None:
            continue
        recorded = read_config(folder).env
        for key in ("action_repeat", *(() if env.get("obs") == "state" else DRAWN)):
            was, now = OmegaConf.select(recorded, key), OmegaConf.select(env, key)
            if was != now:
                raise UserError(f"data={one} was recorded with env.{key}={was}, and this is env.{key}={now}.")
        for key in ("_target_", "task", "id", "maze", "goal"):
            if recorded.get(key) != env.get(key):
                was, now = recorded.get(key), env.get(key)
                log.warning("data=%s was recorded with env.%s=%s, and this is %s", one, key, was, now)
