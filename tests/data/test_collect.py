"""What a collector stores beside the rows of its environments."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from replay_stream import ENVS, SPEC, counter, make

from dynamics.base import State
from planners.base import Planner
from worldmodels.agent import Agent
from worldmodels.common.timing import Stopwatch
from worldmodels.data.collect import Collector
from worldmodels.envs.vector import VectorEnv


def collector(replay, memory: dict[str, torch.Tensor]) -> Collector:
    """Environments of a stream whose rows are known, and an agent of one state that does nothing."""
    stream = counter()
    envs = Mock(spec=VectorEnv, num_envs=ENVS, reset=lambda: next(stream), step=lambda action: next(stream))
    agent = Mock(spec=Agent, state=State(torch.zeros(ENVS, 1), memory), act=lambda planner, reset: None)
    return Collector(envs, replay, agent, Stopwatch())


@pytest.mark.parametrize("kept", [(), ("memory.stoch",)])
def test_only_latents_that_are_kept_are_copied(tmp_path, kept):
    """Others may be large, as a transformer's keys are: what lies on no device here cannot be copied from it."""
    spec = {key: value for key, value in SPEC.items() if not key.startswith("memory.") or key in kept}
    replay = make(tmp_path, spec=spec)
    memory = {"deter": torch.empty(ENVS, 9, device="meta")}
    memory |= {"stoch": torch.full((ENVS, 6), 7.0)} if kept else {"stoch": torch.empty(ENVS, 6, device="meta")}
    collecting = collector(replay, memory)
    for _ in range(3):
        collecting.step(Mock(spec=Planner))
    rows = replay.all_windows(1)
    assert len(rows["tick"]) == 3 * ENVS
    assert [key for key in rows if key.startswith("memory.")] == list(kept)
    assert all((rows[key] == 7).all() for key in kept)
