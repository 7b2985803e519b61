"""Minari datasets that are on this machine. Their spaces are read by the code that env=gym reads them with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from typing_extensions import override

from worldmodels.data.readers.base import Reader, Recording, recording, require_package
from worldmodels.data.readers.rows import unread
from worldmodels.data.readers.spaces import Seen, acted, flat, in_order
from worldmodels.errors import UserError, near_match, reason, sentence, shown

MINARI = "minari:"
"""Beginning of a Minari dataset's name, instead of a path."""
UNREADABLE = (KeyError, TypeError, OSError, AssertionError, gymnasium.error.Error)
"""What Minari raises where its metadata lack a field, or name an environment that is not there."""
SEEN, GOAL, REACHED = "observation", "desired_goal", "achieved_goal"
EARLY = "a termination before an episode's last action ends nothing here: the rows behind it are read too"


class MinariReader(Reader):
    """Reads ``minari:<id>``, a dataset by its name.

    It assumes values of the spaces that the dataset declares, spaces that ``env=gym`` takes, and an episode's end in
    its last row. What is not of its space is refused, naming the episode.
    """

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
        except UNREADABLE as error:
            raise UserError(f"{MINARI}{name} cannot be read: {reason(error)}.") from error
        told = dataset.storage.read_raw_metadata(dataset.storage.data_path)
        act, seen = (
            in_order(space, told.get(key))
            for key, space in (("action_space", dataset.action_space), ("observation_space", dataset.observation_space))
        )
        try:
            for episode in dataset.iterate_episodes():
                yield _read(f"{MINARI}{name}, episode {episode.id}", episode, act, seen)
        except (OSError, KeyError) as error:  # its files are torn, or lack a part
            raise UserError(f"{MINARI}{name} cannot be read: {sentence(shown(error))}") from error


def _read(source: str, episode: Any, act: spaces.Space, seen: spaces.Space) -> Recording:
    if not len(episode.terminations):
        raise UserError(f"{source} has no action: leave it out with dataset.filter_episodes.")
    action, notes = acted(source, act, episode.actions, len(episode.terminations))
    observed, more = _observed(source, seen, episode.observations, len(episode.terminations) + 1)
    terminal = bool(episode.terminations[-1])
    if np.any(episode.terminations[:-1]):
        more = (*more, EARLY)
    return recording(
        source,
        observed,
        np.concatenate([np.zeros_like(action[:1]), action]),
        np.concatenate([[0.0], episode.rewards]),
        terminal,
        finished=terminal or bool(episode.truncations[-1]),
        notes=notes + more,
    )


def _observed(source: str, space: spaces.Space, raw: Any, count: int) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return what is seen in each row, and what is told of it. Of a goal environment ``observation``, and its goal."""
    if not isinstance(space, spaces.Dict) or SEEN not in space.spaces:
        return (seen := Seen(source, space)).read(raw, count), seen.notes
    seen = Seen(source, space, within=SEEN)
    observed = seen.read(raw, count)
    return observed | _goal(source, space, raw, observed, count), seen.notes + unread(space, (SEEN, GOAL, REACHED))


def _goal(
    source: str, space: spaces.Dict, raw: Mapping[str, Any], seen: Mapping[str, np.ndarray], count: int
) -> dict[str, np.ndarray]:
    """Return the goal as a state at rest: its numbers in the place of those reached, zeros behind.

    Raises:
        UserError: what was reached is not the first numbers of the state, so that a goal has no place there.
    """
    if GOAL not in space.spaces:
        return {}
    goal = flat(source, space[GOAL], raw[GOAL], count)
    reached = flat(source, space[REACHED], raw[REACHED], count) if REACHED in space.spaces else None
    state = seen.get("state")
    same = state is not None and reached is not None and reached.shape == goal.shape == state[:, : goal.shape[1]].shape
    if not same or not np.allclose(reached, state[:, : goal.shape[1]], rtol=1e-5, atol=1e-6):
        raise UserError(
            f"{source}: {REACHED!r} is not the first {goal.shape[1]} numbers of 'observation', so its goals are no "
            "states: write a dataset whose observation begins with what is reached, or has no goals."
        )
    return {"goal_state": np.concatenate([goal, np.zeros_like(state[:, goal.shape[1] :])], axis=1)}
