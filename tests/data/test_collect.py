"""What a collector stores beside the rows of its environments."""

from __future__ import annotations

from collections.abc import Iterator
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


class Stepped(VectorEnv):
    """Environments that note what is asked of them, and refuse anything else while they step."""

    stepping = False

    def __init__(self, stream: Iterator[dict[str, torch.Tensor]]) -> None:
        self.stream, self.asked, self.num_envs = stream, [], ENVS

    def _ask(self, name: str) -> None:
        assert self.stepping is (name == "end_step"), name
        self.asked.append(name)
        self.stepping = name == "begin_step"

    def reset(self) -> dict[str, torch.Tensor]:
        self._ask("reset")
        return next(self.stream)

    def begin_step(self, action: None) -> None:
        self._ask("begin_step")

    def end_step(self) -> dict[str, torch.Tensor]:
        self._ask("end_step")
        return next(self.stream)

    def snapshot(self) -> list:
        self._ask("snapshot")
        return []


def collector(replay, memory: dict[str, torch.Tensor], device: str = "cpu") -> Collector:
    """Environments of a stream whose rows are known, and an agent of one state that does nothing."""
    stream = counter()
    envs = Stepped(stream)
    agent = Mock(spec=Agent, state=State(torch.zeros(ENVS, 1), memory), act=lambda planner, reset: None)
    agent.generator = Mock(device=torch.device(device), get_state=lambda: torch.zeros(1))
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


@pytest.mark.parametrize(("device", "steps"), [("cpu", ["begin_step", "end_step"]), ("cuda", ["begin_step"])])
def test_workers_step_while_a_gpu_updates(tmp_path, device, steps):
    """What is stored is the same, and what is saved waits for the step under way."""
    collecting = collector(make(tmp_path), {"deter": torch.zeros(ENVS, 9), "stoch": torch.zeros(ENVS, 6)}, device)
    collecting.agent.memory = None
    for _ in range(3):
        collecting.step(Mock(spec=Planner))
        assert collecting.envs.asked[-len(steps) :] == steps
    assert collecting.replay.all_windows(1)["tick"].flatten().unique().tolist() == [0, 1, 2]
    assert collecting.state_dict()["rows"]["tick"].unique().tolist() == [3]
    assert collecting.envs.asked[-2:] == ["end_step", "snapshot"]
    collecting.step(Mock(spec=Planner))
    assert collecting.replay.all_windows(1)["tick"].flatten().unique().tolist() == [0, 1, 2, 3]
