"""Small files of the layouts that others write, and what was read of them."""

from __future__ import annotations

import h5py
import numpy as np


def write(path, columns):
    if path.suffix == ".npz":
        np.savez(path, **columns)
    else:
        with h5py.File(path, "w") as file:
            for key, value in columns.items():
                file[key] = value
    return str(path)


def arrivals(count=9, **flags):
    """Dreamer's fields: the state counts rows, the reward is the row's number, first actions are zero."""
    action = np.arange(count, dtype=np.float32)[:, None] / 10 + 0.05
    first = flags.get("is_first", np.arange(count) == 0)
    action[np.ravel(first).astype(bool)] = 0
    return {
        "state": np.arange(count, dtype=np.float32)[:, None],
        "action": action,
        "reward": np.arange(count, dtype=np.float32),
        **flags,
    }


def at(*rows, count=9):
    flags = np.zeros(count, bool)
    flags[list(rows)] = True
    return flags


def shape_of(episodes):
    return [(len(e.action), e.terminal, e.finished) for e in episodes]


def departures(count=9, **fields):
    """D4RL's fields, without next_observations."""
    return {
        "observations": np.arange(count, dtype=np.float32)[:, None],
        "actions": np.arange(count, dtype=np.float32)[:, None] / 10,
        "rewards": np.zeros(count, np.float32),
        "terminals": at(count=count),
        "timeouts": at(count=count),
        **fields,
    }


def ogbench(**fields):
    """Two trajectories of four and five rows."""
    return {
        "observations": np.arange(9, dtype=np.float32)[:, None],
        "actions": np.arange(9, dtype=np.float32)[:, None] / 10,
        "terminals": at(3, 8).astype(np.float32),
        "qpos": np.zeros((9, 2)),
        **fields,
    }
