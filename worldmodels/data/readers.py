"""Recorded episodes, ours and in other people's files: V-D4RL's HDF5, Dreamer's npz, Minari."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from worldmodels.data.collect import MEMORY, ROW_FLAGS
from worldmodels.data.episodes import SKILL, Recording, recording
from worldmodels.data.replay import Replay
from worldmodels.errors import UserError, near_match

MINARI = "minari:"
"""What the name of a Minari dataset begins with, instead of a path."""


def read(name: str) -> Iterator[Recording]:
    """Episodes of a dataset; ``UserError``, naming file and field, where it cannot be read."""
    if name.startswith(MINARI):
        return _minari(name.removeprefix(MINARI))
    path = Path(name)
    if own_folder(path):
        return _own(own_folder(path))
    if not path.exists():
        raise UserError(
            f"data={name} does not exist: give a folder that scripts/collect.py made, HDF5 or npz files, or "
            f"{MINARI}<id>."
        )
    files = sorted(file for file in ([path] if path.is_file() else path.iterdir()) if file.suffix in READERS)
    if not files:
        raise UserError(
            f"data={name} has a layout that is not known: it holds neither a replay (replay.json) nor files ending in "
            f"{', '.join(READERS)}."
        )
    return (episode for file in files for episode in READERS[file.suffix](file))


def own_folder(path: Path) -> Path | None:
    """Where the replay of a recording of ours is, or of a training's run; None where there is none."""
    return next((place for place in (path, path / "replay") if (place / "replay.json").exists()), None)


def _own(path: Path) -> Iterator[Recording]:
    """A replay's episodes, without stored latents; what the ring has cut is left out."""
    replay = Replay.open(path, cross_resets=False)
    kept = [key for key in replay.layout.spec if key not in ROW_FLAGS and not key.startswith(MEMORY)]
    replay.restrict([*kept, *ROW_FLAGS])
    for first, length, env in replay.segments():
        rows = {key: value.numpy() for key, value in replay.episode_from(first, length, env).items()}
        if not rows["is_first"][0]:
            continue
        seen = {key: rows[key] for key in kept if key not in ("action", "reward", SKILL)}
        source = f"{path}, rows {first} to {first + length - 1} of environment {env}"
        terminal, finished = (bool(rows[key][-1]) for key in ("is_terminal", "is_last"))
        yield recording(source, seen, rows["action"], rows["reward"], terminal, rows.get(SKILL), finished)


def _hdf5(path: Path) -> Iterator[Recording]:
    """V-D4RL's files, D4RL's, or one episode a file, told by their fields."""
    h5py = _package("h5py", "HDF5 files")
    try:
        with h5py.File(path) as file:
            yield from (_d4rl if "observations" in file else _vd4rl)(path, file)
    except OSError as error:
        raise UserError(f"{path} cannot be read as HDF5: {' '.join(str(error).split())}.") from error


def _vd4rl(path: Path, file: Mapping[str, Any]) -> Iterator[Recording]:
    """Episodes behind one another, ``step_type`` 0 in each first row and 2 in each last; without it, one episode."""
    rows = _fields(path, file, ("action", "reward"))
    seen = {"pixels": file.get("observation", file.get("pixels")), "state": file.get("state")}
    seen = {key: value for key, value in seen.items() if value is not None}
    for key, value in seen.items():
        if not hasattr(value, "shape"):
            raise UserError(f"{path}: the field that should hold {key} is a group of {sorted(value)}, not an array.")
    if not seen:
        raise UserError(
            f"{path} has no field 'observation' or 'state', only {sorted(file)}: nothing is observed in it."
        )
    count = len(rows["action"])
    step, discount, skill = (_column(path, file, name, count) for name in ("step_type", "discount", SKILL))
    first = np.array([0]) if step is None else np.flatnonzero(step == 0)
    if not len(first) or first[0] != 0:
        raise UserError(f"{path}: 'step_type' must be 0 in the first row of each episode, and is not in row 0.")
    for begin, end in zip(first, [*first[1:], count], strict=True):
        part = slice(int(begin), int(end))
        yield recording(
            f"{path}, rows {begin} to {end - 1}",
            {key: np.asarray(value[part]) for key, value in seen.items()},
            np.asarray(rows["action"][part]),
            np.asarray(rows["reward"][part]),
            discount is not None and float(discount[end - 1]) == 0,
            None if skill is None else skill[part],
            finished=step is None or int(step[end - 1]) == 2,
        )


def _d4rl(path: Path, file: Mapping[str, Any]) -> Iterator[Recording]:
    """Flat arrays in which ``actions[t]`` leads on from ``observations[t]`` and earns ``rewards[t]``.

    An episode ends with ``terminals`` or ``timeouts``; in files without the second, also where a row does not begin
    where the one before led. Where its last action led is in ``next_observations``; in files without those, that action
    and its reward are left out, and so is the end.
    """
    rows = _fields(path, file, ("observations", "actions", "rewards"))
    rows = {key: np.asarray(value) for key, value in rows.items()}
    count = len(rows["observations"])
    led = _column(path, file, "next_observations", count, flat=False)
    terminal, timeout = (_column(path, file, name, count) for name in ("terminals", "timeouts"))
    if terminal is None or (timeout is None and led is None):
        raise UserError(
            f"{path} has no field {'terminals' if terminal is None else 'timeouts'!r}, only {sorted(file)}: it does "
            "not say where episodes end."
        )
    if timeout is None:
        same = (led[:-1] == rows["observations"][1:]).reshape(count - 1, -1).all(1)
        timeout = np.append(~same, False)
    over = terminal.astype(bool) | timeout.astype(bool)
    stops = sorted({*(np.flatnonzero(over) + 1).tolist(), count})
    for begin, end in zip([0, *stops], stops, strict=False):
        seen, action, reward = (rows[key][begin:end] for key in ("observations", "actions", "rewards"))
        if led is not None:
            seen = np.concatenate([seen, led[end - 1 : end]])
        else:
            action, reward = action[:-1], reward[:-1]
        key = "pixels" if seen.dtype == np.uint8 and seen.ndim == 4 else "state"
        yield recording(
            f"{path}, rows {begin} to {end - 1}",
            {key: seen},
            np.concatenate([np.zeros_like(rows["actions"][:1]), action]),
            np.concatenate([[0.0], np.ravel(reward)]),
            led is not None and bool(terminal[end - 1]),
            finished=bool(over[end - 1]),
        )


def _npz(path: Path) -> Iterator[Recording]:
    """Dreamer's files, V-D4RL's at 64 pixels among them: one episode each, ``image`` [T, H, W, C]."""
    known = ("image", "state", "action", "reward", "is_terminal", "discount", SKILL)
    try:
        with np.load(path) as archive:
            names, file = sorted(archive), {key: archive[key] for key in known if key in archive}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as npz: {' '.join(str(error).split())}.") from error
    rows = _fields(path, file, ("action", "reward"), names)
    seen = {"state": file["state"]} if "state" in file else {}
    if "image" in file:
        seen["pixels"] = file["image"].transpose(0, 3, 1, 2) if file["image"].ndim == 4 else file["image"]
    if not seen:
        raise UserError(f"{path} has no field 'image' or 'state', only {names}: nothing is observed in it.")
    terminal = file["is_terminal"] if "is_terminal" in file else file.get("discount", np.ones(1)) == 0
    yield recording(str(path), seen, rows["action"], rows["reward"], bool(np.ravel(terminal)[-1]), file.get(SKILL))


READERS: dict[str, Callable[[Path], Iterator[Recording]]] = {".hdf5": _hdf5, ".h5": _hdf5, ".npz": _npz}
"""By the end of a file's name."""


def _minari(name: str) -> Iterator[Recording]:
    """A Minari dataset that is on this machine: T actions between T + 1 observations."""
    minari = _package("minari", "Minari datasets")
    try:
        dataset = minari.load_dataset(name)
    except (FileNotFoundError, ValueError) as error:
        known = list(minari.list_local_datasets())
        raise UserError(
            f"data={MINARI}{name} is not on this machine ({' '.join(str(error).split())}): fetch it with "
            f"`minari download {name}`.{near_match(name, known)}"
        ) from error
    for episode in dataset.iterate_episodes():
        action = np.asarray(episode.actions)
        if action.ndim == 1:
            action = np.eye(int(dataset.action_space.n), dtype=np.float32)[action - int(dataset.action_space.start)]
        elif dataset.action_space.is_bounded():
            low, high = dataset.action_space.low, dataset.action_space.high
            action = 2 * (action - low) / (high - low) - 1  # as env=gym maps them back
        terminal = bool(episode.terminations[-1])
        yield recording(
            f"{MINARI}{name}, episode {episode.id}",
            _minari_observations(name, episode.observations),
            np.concatenate([np.zeros_like(action[:1]), action]),
            np.concatenate([[0.0], episode.rewards]),
            terminal,
            finished=terminal or bool(episode.truncations[-1]),
        )


def _minari_observations(name: str, seen: Any) -> dict[str, np.ndarray]:
    """Images by their type; a goal environment's ``observation``, and its goal as one at rest."""
    if isinstance(seen, Mapping):
        state = np.asarray(seen["observation"]) if "observation" in seen else None
        if state is None:
            raise UserError(f"data={MINARI}{name} has no field 'observation', only {sorted(seen)}.")
        goal = np.asarray(seen.get("desired_goal", state[:, :0]))
        if goal.shape[1] == 0 or goal.shape[1] > state.shape[1]:
            return {"state": state}
        rest = np.zeros((len(goal), state.shape[1] - goal.shape[1]))
        return {"state": state, "goal_state": np.concatenate([goal, rest], axis=1)}
    seen = np.asarray(seen)
    if seen.dtype == np.uint8 and seen.ndim == 4:
        return {"pixels": seen.transpose(0, 3, 1, 2)}
    return {"state": seen.reshape(len(seen), -1)}


def _fields(
    path: Path, file: Mapping[str, Any], wanted: tuple[str, ...], names: list[str] | None = None
) -> dict[str, Any]:
    for name in wanted:
        if not hasattr(file.get(name), "shape"):
            raise UserError(
                f"{path} has no field {name!r}, only {names or sorted(file)}: its layout is not known here."
            )
        if 0 in file[name].shape[:1]:
            raise UserError(f"{path}: field {name!r} has no rows.")
    return {name: file[name] for name in wanted}


def _column(path: Path, file: Mapping[str, Any], name: str, count: int, flat: bool = True) -> np.ndarray | None:
    """A field that may be there or not, then with as many rows as there are; ``flat``: a number each."""
    if name not in file:
        return None
    value = file[name]
    shape = getattr(value, "shape", None)
    if not shape or shape[0] != count or (flat and math.prod(shape) != count):
        what = "a group" if shape is None else f"of shape {tuple(shape)}"
        raise UserError(f"{path}: field {name!r} is {what}, where {count} rows are expected.")
    return np.asarray(value).reshape(-1) if flat else np.asarray(value)


def _package(name: str, what: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise UserError(f'{what} take another package: pip install "worldmodels[datasets]".') from error
