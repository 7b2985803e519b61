"""Minari datasets that are on this machine."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from worldmodels.data.readers.base import Reader, Recording, as_frames, recording, require_package
from worldmodels.data.readers.rows import unread
from worldmodels.data.readers.spaces import flat, is_image
from worldmodels.errors import UserError, near_match, shown

MINARI = "minari:"
"""Beginning of a Minari dataset's name, instead of a path."""
GOAL, REACHED = "desired_goal", "achieved_goal"


class MinariReader(Reader):
    """Reads ``minari:<id>``, a dataset by its name."""

    @override
    def accepts(self, name: str) -> bool:
        return name.startswith(MINARI)

    def read(self, name: str) -> Iterator[Recording]:
        """Read a Minari dataset that is on this machine: T actions between T + 1 observations."""
        name = name.removeprefix(MINARI)
        minari = require_package("minari", "Minari datasets")
        try:
            dataset = minari.load_dataset(name)
        except (FileNotFoundError, ValueError) as error:
            known = list(minari.list_local_datasets())
            raise UserError(
                f"data={MINARI}{name} is not on this machine ({shown(error)}): fetch it with "
                f"`minari download {shlex.quote(name)}`.{near_match(name, known)}"
            ) from error
        for episode in dataset.iterate_episodes():
            source = f"{MINARI}{name}, episode {episode.id}"
            action = flat(source, dataset.action_space, episode.actions, unit=True)
            terminal = bool(episode.terminations[-1])
            yield recording(
                source,
                _observed(source, dataset.observation_space, episode.observations),
                np.concatenate([np.zeros_like(action[:1]), action]),
                np.concatenate([[0.0], episode.rewards]),
                terminal,
                finished=terminal or bool(episode.truncations[-1]),
                notes=_told(dataset.action_space, dataset.observation_space),
            )


def _told(action: spaces.Space, seen: spaces.Space) -> tuple[str, ...]:
    """Return notes where actions are not those of a bounded Box or of one choice, or something is not read."""
    notes = ()
    if isinstance(action, spaces.Box) and not action.is_bounded():
        notes += (f"actions have no bounds ({shown(action)}) and are taken as they are",)
    if not isinstance(action, spaces.Box | spaces.Discrete):
        notes += (f"actions of {shown(action)} are read side by side, choices one-hot",)
    if isinstance(seen, spaces.Dict) and "observation" in seen.spaces:
        return notes + unread(seen, ("observation", GOAL, REACHED))
    if isinstance(seen, spaces.Dict):
        notes += (f"what is seen is read side by side, in this order: {shown(sorted(seen))}",)
    return notes


def _observed(source: str, space: spaces.Space, seen: Any) -> dict[str, np.ndarray]:
    """Return images by their type, all else as one state. Of a goal environment: ``observation``, and its goal."""
    if is_image(space):
        return {"pixels": as_frames(np.asarray(seen))}
    if not isinstance(space, spaces.Dict):
        return {"state": flat(source, space, seen)}
    if "observation" in space.spaces:
        observed = _observed(source, space["observation"], seen["observation"])
        return observed | _goal(source, space, seen, observed.get("state"))
    images = [key for key in space if is_image(space[key])]
    if len(images) > 1:
        raise UserError(f"{source} shows several images, {shown(images)}, and one is read: record it with one.")
    rest = spaces.Dict({key: space[key] for key in space if key not in images})
    observed = {"pixels": as_frames(np.asarray(seen[images[0]]))} if images else {}
    return observed | ({"state": flat(source, rest, seen)} if rest.spaces else {})


def _goal(source: str, space: spaces.Dict, seen: Mapping[str, Any], state: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the goal as a state at rest: its numbers in the place of those reached, zeros behind.

    Raises:
        UserError: what was reached is not the first numbers of the state, so that a goal has no place there.
    """
    if GOAL not in space.spaces:
        return {}
    goal = flat(source, space[GOAL], seen[GOAL])
    reached = flat(source, space[REACHED], seen[REACHED]) if REACHED in space.spaces else None
    same = state is not None and reached is not None and reached.shape == goal.shape == state[:, : goal.shape[1]].shape
    if not same or not np.allclose(reached, state[:, : goal.shape[1]], rtol=1e-5, atol=1e-6):
        raise UserError(
            f"{source}: {REACHED!r} is not the first {goal.shape[1]} numbers of 'observation', so its goals are no "
            "states: write a dataset whose observation begins with what is reached, or has no goals."
        )
    return {"goal_state": np.concatenate([goal, np.zeros_like(state[:, goal.shape[1] :])], axis=1)}
