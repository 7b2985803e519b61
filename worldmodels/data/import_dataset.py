"""Recorded datasets, of whatever layout, as replays to learn from, checked against what is to be observed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from tqdm import tqdm

from worldmodels.common.batch import ROW_FLAGS
from worldmodels.common.columns import GOAL_PREFIX, shows_frames
from worldmodels.data.card import write_card
from worldmodels.data.readers import READERS, read
from worldmodels.data.readers.base import SKILL, Reader, Recording, resized
from worldmodels.data.readers.own import own_folder
from worldmodels.data.replay import Replay
from worldmodels.data.storage import Spec
from worldmodels.data.survey import Survey
from worldmodels.errors import UserError
from worldmodels.errors import shown as told

log = logging.getLogger(__name__)


def open_dataset(
    name: str | Sequence[str],
    spec: Spec,
    folder: Path,
    limit_gib: int | float,
    cross_resets: bool,
    seed: int,
    action_repeat: int = 1,
    shown: Mapping[str, np.ndarray] | None = None,
    readers: Sequence[Reader] = READERS,
) -> Replay:
    """Open the dataset ``name``, or several as one, with the columns of ``spec`` in it.

    A folder that ``scripts/collect.py`` or a training wrote is read where it is. Anything else is copied into a replay
    in ``folder``, where it is found again when a training is resumed, with a card of what it holds. Of several, the
    column ``skill`` tells which one a row is from, unless they have such a column themselves. ``shown`` is what every
    row of a copy shows where files lack it: the goal that ``env.goal`` names. ``readers`` are the known formats.

    Raises:
        UserError: it does not exist, is of no known layout, or lacks a column or has it in another shape.
    """
    own = replay_folder(name, folder)
    if not (own / "replay.json").exists():
        copy_into(own, name, spec, limit_gib, action_repeat, shown or {}, readers)
    replay = Replay.open(own, cross_resets, seed)
    if not replay.layout.spec.keys() >= (shown or {}).keys():
        raise UserError(
            f"data={name} was recorded without a goal beside what is seen: in a list, data=[{name}], it is copied with "
            "that of env.goal in every row."
        )
    require_columns(str(own), {k: (tuple(s), str(d)) for k, (s, d) in replay.layout.spec.items()}, spec)
    replay.restrict([*spec, SKILL])
    return replay


def replay_folder(name: str | Sequence[str] | None, folder: Path) -> Path:
    """Return where the rows of a dataset are: its own folder if that holds a replay, else ``folder``."""
    return (own_folder(Path(name)) if isinstance(name, str) else None) or folder


def copy_into(
    folder: Path,
    name: str | Sequence[str],
    spec: Spec,
    limit_gib: int | float,
    action_repeat: int,
    shown: Mapping[str, np.ndarray],
    readers: Sequence[Reader],
) -> None:
    """Write every episode of datasets into a replay of one environment, one episode in memory at a time."""
    survey = Survey()
    for episode in episodes(name, readers):
        survey.add(episode)
    if not survey.episodes:
        raise UserError(f"data={told(name)} holds no episode.")
    survey.tell(name)
    if survey.skilled == survey.episodes:
        spec = {**spec, SKILL: ((), torch.int64)}
    replay = Replay(folder, spec, 1, survey.rows, limit_gib)
    copied = tqdm(
        episodes(name, readers), f"copying data={told(name)}", survey.episodes, unit="episode", file=sys.stdout
    )
    for episode in copied:
        replay.extend_block(rows_of(episode, spec, shown))
    frames = action_repeat * (survey.rows - survey.episodes)
    card = write_card(folder, {"dataset": name if isinstance(name, str) else list(name), "frames": frames})
    log.info(
        "data=%s: %d episodes, %d rows, as %s says", told(name), card["episodes"], card["rows"], folder / "card.md"
    )


def episodes(name: str | Sequence[str], readers: Sequence[Reader]) -> Iterator[Recording]:
    """Yield the episodes of one dataset, or of several.

    Episodes that tell no skill get their dataset's number as skill.
    """
    if isinstance(name, str):
        yield from read(name, readers)
        return
    for number, one in enumerate(name):
        for episode in read(one, readers):
            skill = np.full(len(episode.action), number) if episode.skill is None else episode.skill
            yield replace(episode, skill=skill)


def rows_of(
    episode: Recording, spec: Spec, shown: Mapping[str, np.ndarray] | None = None
) -> dict[str, Shaped[torch.Tensor, "T 1 ..."]]:
    """Return the rows of one episode, in the columns of ``spec``. All show ``shown`` where it says nothing of that."""
    columns = {key: np.stack([value] * len(episode.action)) for key, value in (shown or {}).items()}
    columns |= episode.observations
    for key in spec.keys() & columns.keys():
        if shows_frames(key):
            columns[key] = resized(columns[key], spec[key][0][-1])
    length = len(episode.action)
    reach = np.abs(episode.action).reshape(length, -1).max(0)
    if reach.max() > 1 + 1e-4:
        raise UserError(
            f"{episode.source}: field 'action' reaches {reach.max():.3g} in number {reach.argmax()} of {len(reach)}, "
            "and actions here lie in [-1, 1]: divide by the environment's range first."
        )
    columns |= {
        "action": episode.action,
        "reward": episode.reward,
        "is_first": np.arange(length) == 0,
        "is_last": (np.arange(length) == length - 1) & episode.finished,
        "is_terminal": (np.arange(length) == length - 1) & episode.terminal,
    }
    if episode.skill is not None:
        columns[SKILL] = episode.skill.astype(np.int64)
    require_columns(episode.source, {k: (v.shape[1:], f"torch.{v.dtype}") for k, v in columns.items()}, spec)
    return {key: torch.from_numpy(np.ascontiguousarray(columns[key]))[:, None] for key in spec}


def require_columns(source: str, found: dict[str, tuple[tuple[int, ...], str]], spec: Spec) -> None:
    """Refuse what lacks a column, or has it in another shape or type."""
    for key in sorted(spec, key=lambda key: key.startswith(GOAL_PREFIX)):  # what is seen before what is aimed at
        shape, dtype = spec[key]
        if key not in found:
            seen = sorted(found.keys() - ROW_FLAGS.keys() - {"action", "reward"})
            raise UserError(f"{source} has no {key!r}, only {', '.join(seen)}: choose env.obs accordingly.")
        if found[key] != (tuple(shape), str(dtype)):
            raise UserError(
                f"{source}: {key!r} is {found[key][1].removeprefix('torch.')} {found[key][0]}, where this environment "
                f"has {str(dtype).removeprefix('torch.')} {tuple(shape)}: use the env settings it was recorded with."
            )
