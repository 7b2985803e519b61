"""The one acting path: filter rows, choose actions, for collecting, evaluating and drawing alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from dynamics.base import Memory, State
from planners.base import Model, Planner, require_actions
from worldmodels.errors import OptionError, UserError


class Agent:
    """Filters rows and chooses actions: the one acting path, for collecting, evaluating and drawing alike."""

    def __init__(
        self,
        n: int,
        model: Model,
        explore: bool,
        generator: torch.Generator,
        precision: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.model, self.explore, self.generator, self.precision = model, explore, generator, precision
        self.state: State = model.initial(n).map(torch.detach)
        self.memory: Memory | None = None

    @torch.no_grad()
    def filter(self, rows: dict[str, Tensor]) -> None:
        """Take in the newest rows."""
        rows = {key: value.to(self.model.device) for key, value in rows.items()}
        with self.precision():
            self.state = self.model.obs_step(rows, rows["action"], rows["is_first"], self.state, self.generator)

    @torch.no_grad()
    def act(self, planner: Planner, reset: Tensor) -> Tensor:
        """Choose the next actions [N, A], on the CPU. A planner's memory begins with its first decision."""
        if self.memory is None:
            self.memory = planner.initial(len(reset))
        try:
            with self.precision():
                action, self.memory = planner.act(
                    self.model, self.state, self.memory, reset, self.explore, self.generator
                )
            return require_actions(action.float().cpu())
        except OptionError as error:
            raise error.with_path("planner") from None
        except FloatingPointError as error:
            raise UserError(f"{error} Lower optimizer.lr or use trainer.precision=fp32.") from error
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
                raise
            raise UserError(
                f"planning for {len(reset)} environments takes more memory than there is: lower env.num_envs or the "
                "planner's candidates."
            ) from error
