"""Receding horizon: plan a sequence of actions, execute some of it, and plan again."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from dynamics.base import Memory
from planners.base import Decision, Planner
from planners.search.memory_budget import ROWS_AT_ONCE
from planners.search.proposals import ProposalFamily
from worldmodels.common.host import read, send
from worldmodels.errors import OptionError
from worldmodels.nets.choices import Discrete


class Replanner(Planner):
    """Follows a plan for ``replan_every`` steps. Subclasses say how one is made.

    Memory, N rows: ``plan`` [N, H, A], the plan whose first action belongs to the latest state, for looking at;
    ``mean`` the same as the parameters of ``family`` (probabilities if discrete); ``actions`` what is being executed;
    ``age``, on the host, steps taken from the current plan, 0 before any. All of them move up by one step at each
    decision.
    """

    host_keys = ("age",)

    plan_keys: tuple[str, ...] = ("plan", "mean", "actions")
    """Keys of the memory that hold plans [N, ..., H, A] and move up with every step."""
    without_warm_start = "warm_start=false"
    """The option that makes every plan begin from nothing."""

    def __init__(
        self,
        action_dim: int,
        discrete: Discrete,
        family: ProposalFamily,
        plan_horizon: int,
        gamma: float,
        replan_every: int,
        warm_start: bool,
    ) -> None:
        super().__init__(action_dim, discrete)
        if replan_every > plan_horizon:
            raise OptionError("replan_every", replan_every, f"must be at most plan_horizon={plan_horizon}")
        if warm_start and replan_every == plan_horizon:
            raise OptionError(
                "replan_every",
                replan_every,
                f"executes the whole plan (plan_horizon={plan_horizon}) and leaves a warm start nothing to begin "
                f"from: shorten it or set {self.without_warm_start}",
            )
        self.family, self.plan_horizon, self.gamma = family, plan_horizon, gamma
        self.replan_every, self.warm_start = replan_every, warm_start

    @property
    @override
    def horizons(self) -> dict[str, int]:
        return {"plan_horizon": self.plan_horizon}

    @abstractmethod
    def search(self, decision: Decision, memory: Memory) -> Memory:
        """Return the memory of N rows with ``mean`` and ``actions`` of a new plan in it, both [N, H, A].

        ``memory["mean"]`` holds the rest of the plan before, or what is known where there was none.
        """

    @override
    def initial(self, n: int) -> Memory:
        mean = self.family.unknown(torch.empty(n, self.plan_horizon, self.action_dim))
        return {
            "plan": self.family.mode(mean),
            "mean": mean,
            "actions": torch.zeros_like(mean),
            "age": torch.zeros(n, dtype=torch.int64, device="cpu"),
        }

    def _act(self, decision: Decision, memory: Memory) -> tuple[Float[Tensor, "N A"], Memory]:
        """Go on with the plan, or make a new one in the rows where ``replan_every`` steps of it are used up."""
        memory = self.shift_plan(memory)
        rows = [row for row, age in enumerate(read(memory["age"])) if age == 0 or age >= self.replan_every]
        if len(rows) == len(memory["age"]):
            memory = self._replan(decision, memory)
        elif rows:
            places = torch.tensor(rows)
            places = {key: places if key in self.host_keys else send(places, decision.device) for key in memory}
            part = self._replan(decision.select(rows), {key: memory[key][places[key]] for key in memory})
            memory = {key: value.index_copy(0, places[key], part[key]) for key, value in memory.items()}
        memory["plan"] = self.family.mode(memory["mean"])
        memory["age"] = memory["age"] + 1
        return memory["actions"][:, 0], memory

    def _replan(self, decision: Decision, memory: Memory) -> Memory:
        """Make a new plan in every row, a group of rows at a time where that is faster."""
        memory = self.search_start(memory)
        n, found = len(memory["age"]), []
        size = n if decision.device.type != "cpu" else max(1, ROWS_AT_ONCE // max(1, self.imagination_size.rows))
        for begin in range(0, n, size):
            rows = slice(begin, begin + size)
            found.append(self.search(decision.select(rows), {key: value[rows] for key, value in memory.items()}))
        whole = {key: torch.cat([part[key] for part in found]) for key in found[0]}
        return whole | {"age": torch.zeros_like(memory["age"])}

    def search_start(self, memory: Memory) -> Memory:
        """Return the memory that a search begins with: without the plan before, unless there is a warm start."""
        if self.warm_start:
            return memory
        return memory | {"mean": self.family.unknown(memory["mean"])}

    def current_plan(self, memory: Memory, fallback: Float[Tensor, "N H A"]) -> Float[Tensor, "N H A"]:
        """Return the plan that is being followed, for looking at. Rows that have none yet get ``fallback``."""
        planned = send(memory["age"] > 0, fallback.device)
        return torch.where(planned[:, None, None], memory["plan"], fallback)

    def shift_plan(self, memory: Memory) -> Memory:
        """Drop the first step of every plan. Nothing is known about its new last one."""

        def shifted(value: Tensor) -> Tensor:
            return torch.cat([value[..., 1:, :], self.family.unknown(value[..., :1, :])], dim=-2)

        return memory | {key: shifted(memory[key]) for key in self.plan_keys}
