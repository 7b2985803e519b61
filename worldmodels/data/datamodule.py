"""Data for Lightning: collect as much as ``train_ratio`` asks for and hand out one batch, or read a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import override

from planners.base import Planner
from worldmodels.agent import Agent
from worldmodels.common.timing import Stopwatch
from worldmodels.data.collect import Collector, Episode
from worldmodels.data.prefetch import Batches


class UpdateSchedule:
    """Number of updates that are due after so many decisions.

    ``train_ratio`` is replayed time steps per decision. Decisions of the prefill earn no updates, so that none are owed
    when it ends, but for a ``burst`` of them. Nor are any owed when a run is resumed with other terms: what was earned
    before stays as it is.
    """

    def __init__(
        self, prefill: int, decisions: int, train_ratio: int | float, steps_per_update: int, burst: int = 0
    ) -> None:
        self.prefill, self.decisions, self.burst = prefill, decisions, burst
        self.train_ratio, self.steps_per_update = train_ratio, steps_per_update
        self.since = (0, 0)

    def updates_due(self, decisions: int) -> int:
        """Updates that ``decisions`` pay for."""
        before, updates = self.since
        if before < self.prefill <= decisions:
            updates += self.burst
        earning = max(0, decisions - max(self.prefill, before))
        return updates + int(earning * self.train_ratio / self.steps_per_update)

    def state_dict(self) -> dict[str, Any]:
        """The terms, and since when (decisions, updates) they hold."""
        return {"terms": self._terms(), "since": list(self.since)}

    def load_state_dict(self, state: dict[str, Any], decisions: int, updates: int) -> None:
        """Go on as before, or from here on where the terms are new."""
        self.since = tuple(state["since"]) if state["terms"] == self._terms() else (decisions, updates)

    def _terms(self) -> list[int | float]:
        return [self.prefill, self.train_ratio, self.steps_per_update, self.burst]

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        return self.updates_due(self.decisions)


class OnlineDataset(IterableDataset):
    """Alternates between collecting and sampling, one batch an update, and counts its own updates.

    It has a length, or Lightning would fetch one batch early and neither resuming nor on-policy order would be exact.

    """

    def __init__(
        self,
        collector: Collector,
        batches: Batches,
        schedule: UpdateSchedule,
        planner: Planner,
        prefill_planner: Planner,
    ) -> None:
        self.collector, self.batches, self.schedule, self.replay = collector, batches, schedule, batches.replay
        self.planner, self.prefill_planner = planner, prefill_planner
        self.updates = 0
        self.on_episode: Callable[[Episode], None] = lambda episode: None
        self.should_stop: Callable[[], bool] = lambda: False

    @property
    def frames(self) -> int:
        """Environment frames so far."""
        return self.collector.frames

    @property
    def decisions(self) -> int:
        """Number of decisions so far."""
        return self.collector.decisions

    @property
    def clock(self) -> int:
        """Number that curves are drawn against."""
        return self.frames

    @property
    def agent(self) -> Agent | None:
        """Agent that acts once the prefill is over."""
        return self.collector.agent if self.planning else None

    def __len__(self) -> int:
        return self.schedule.total

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while self.updates < len(self):
            while self._must_collect():
                if self.should_stop() and not self.updates:  # later, the next update's end is near
                    return
                self._collect()
            with self.collector.stopwatch("replay"):
                batch = self.batches.take()
            self.updates += 1
            if self.batches.reads_ahead and self.updates < len(self) and not self._must_collect():
                self.batches.read_ahead()
            yield batch

    def _must_collect(self) -> bool:
        """Return whether no update is due yet, or there is no window for it. None will come once all frames are in."""
        decisions = self.collector.decisions
        due = self.schedule.updates_due(decisions) > self.updates
        return not due or (decisions < self.schedule.decisions and not self.replay.can_sample(self.batches.rows))

    def _collect(self) -> None:
        prefilling = self.collector.decisions < self.schedule.prefill
        if not prefilling and not self.planning:
            self.planning = True
            self.collector.agent.memory = None  # another planner's memory means nothing to this one
        for episode in self.collector.step(self.prefill_planner if prefilling else self.planner):
            self.on_episode(episode)

    planning = False
    """Whether the prefill is over."""

    def state_dict(self) -> dict[str, Any]:
        """Return counters, collector and replay."""
        self.batches.put_back()
        return {
            "updates": self.updates,
            "planning": self.planning,
            "schedule": self.schedule.state_dict(),
            "collector": self.collector.state_dict(),
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.batches.put_back()
        self.updates, self.planning = state["updates"], state["planning"]
        self.schedule.load_state_dict(state["schedule"], state["collector"]["decisions"], self.updates)
        self.replay.load_state_dict(state["replay"])
        self.collector.load_state_dict(state["collector"])
        self._forget_other_planners()

    def _forget_other_planners(self) -> None:
        """Forget what another planner remembered: a run may be resumed with one to which it means nothing."""
        agent, planner = self.collector.agent, self.planner if self.planning else self.prefill_planner
        fresh = planner.initial(self.collector.envs.num_envs)
        known = agent.memory and {key: value.shape for key, value in agent.memory.items()}
        if known != {key: value.shape for key, value in fresh.items()}:
            agent.memory = None


class OfflineDataset(IterableDataset):
    """Windows of a recording, a given number of batches of them.

    Stands where an :class:`OnlineDataset` does, but that nobody acts and no frames come in.

    Args:
        total: how many batches.
        repeat: frames of a decision.
    """

    agent = None

    def __init__(self, batches: Batches, total: int, stopwatch: Stopwatch | None = None, repeat: int = 1) -> None:
        self.batches, self.total, self.replay = batches, total, batches.replay
        self.stopwatch = stopwatch or Stopwatch()
        self.updates = 0
        self.decisions = len(self.replay) - len(self.replay.episode_lengths())
        self.frames = repeat * self.decisions
        self.on_episode: Callable[[Episode], None] = lambda episode: None
        self.should_stop: Callable[[], bool] = lambda: False

    @property
    def clock(self) -> int:
        """Number that curves are drawn against."""
        return self.updates

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while self.updates < len(self):
            with self.stopwatch("replay"):
                batch = self.batches.take()
            self.updates += 1
            if self.batches.reads_ahead and self.updates < len(self):
                self.batches.read_ahead()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the counter and what the next windows are drawn with."""
        self.batches.put_back()
        return {"updates": self.updates, "generator": self.replay.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.batches.put_back()
        self.updates = state["updates"]
        self.replay.generator.set_state(state["generator"])  # and nothing else: the recording is not this run's


class OnlineData(lightning.LightningDataModule):
    """Lightning's handle on a dataset, saved into every checkpoint."""

    def __init__(self, dataset: OnlineDataset | OfflineDataset) -> None:
        super().__init__()
        self.dataset = dataset

    def train_dataloader(self) -> DataLoader:
        """Hand out ready-made batches, in this process.

        The loader has a generator because it draws a seed that nobody needs.
        """
        return DataLoader(self.dataset, batch_size=None, generator=torch.Generator())

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.dataset.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.dataset.load_state_dict(state_dict)
