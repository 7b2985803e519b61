"""Minari datasets that are on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from typing_extensions import override

from worldmodels.data.readers.base import Reader, Recording, recording, require_package
from worldmodels.errors import UserError, near_match

MINARI = "minari:"
"""Beginning of a Minari dataset's name, instead of a path."""


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
    """Return images by their type. Of a goal environment, return ``observation``, and its goal as one at rest."""
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
