"""The LightningModule: one optimiser, named and scaled losses, a guard against anything that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from dynamics.base import Memory, Rollout, State
from planners.base import Planner
from worldmodels.common.batch import split_context
from worldmodels.common.columns import MEMORY_PREFIX, PLACE
from worldmodels.common.compiling import CompiledStep
from worldmodels.common.precision import wide
from worldmodels.errors import UserError
from worldmodels.model import WorldModel, merge_losses
from worldmodels.nets.averages import WeightAverage
from worldmodels.nets.layers import tensors_of
from worldmodels.nets.narrow import NarrowCopy
from worldmodels.objectives.base import Context
from worldmodels.training.finite import FiniteWatch
from worldmodels.training.losses import LossBalance
from worldmodels.training.optim import Tensors, warmed_up

Clip = Callable[[Tensors], None]


class WorldModelModule(lightning.LightningModule):
    """Trains a world model and whatever a planner learns from one batch with one optimiser.

    What acts, draws and is scored is a moving average of the weights (:attr:`acting`), which generalises better than
    the newest ones.

    Args:
        optimizer: builds the optimiser from parameter groups.
        parts: options of the optimiser by part (``model.encoder``, ``planner``, …), where they differ.
        clip: clips gradients in place, after the backward pass.
        balance: what is minimised, from the mean of every loss.
        prefix: rows in front of every window (:func:`~worldmodels.common.batch.context_rows`).
        average: share of the moving average that each update keeps. 0 acts with the newest weights.
        bad_batch: where a batch is saved whose loss or gradient is not finite.
        warmup: updates in which the learning rates rise from 0.
    """

    def __init__(
        self,
        model: WorldModel,
        planner: Planner,
        optimizer: Callable[..., torch.optim.Optimizer],
        clip: Clip,
        balance: LossBalance,
        parts: Mapping[str, Mapping[str, float]],
        prefix: int,
        average: int | float,
        bad_batch: Path,
        warmup: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.planner, self.balance = model, planner, balance
        self._optimizer, self.clip = optimizer, clip
        self.parts = dict(parts)
        self.prefix, self.bad_batch, self.warmup = prefix, bad_batch, warmup
        self.finite = FiniteWatch()
        self.narrow: NarrowCopy | None = None
        self.average = WeightAverage(nn.ModuleDict({"model": model, "planner": planner}), average)
        self.tensors = [*tensors_of(model), *tensors_of(planner), *tensors_of(balance)]
        self.step_losses: Callable[..., tuple[dict[str, Tensor], Rollout]] = self.losses  # until they are compiled
        self._batch: dict[str, Tensor] = {}
        self._rollout: Rollout | None = None
        self._later: dict[str, Tensor] = {}

    def losses(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rollout]:
        """Return every loss by name, unreduced, and the rollout behind them."""
        prefix, window = split_context(self.model.encoder.augment(batch), self.prefix)
        start = self.start(self.model, prefix, window)
        context = Context(self.model, self.planner, self.average.n_averaged)
        losses, rollout = self.model.losses(window, start, context)
        if self.model.learns(self.planner):
            losses = merge_losses(losses, self.planner.loss(self.model, rollout, window), "the planner")
        return losses, rollout

    @property
    def acting(self) -> tuple[WorldModel, Planner]:
        """Model and planner with averaged weights, which are drawn and are scored, and collect."""
        return self.average.module["model"], self.average.module["planner"]

    @property
    def collecting(self) -> tuple[WorldModel, Planner]:
        """The same, as narrow as frames and plans are computed (:meth:`collect_narrowly`)."""
        parts = self.average.module if self.narrow is None else self.narrow.module
        return parts["model"], parts["planner"]

    def collect_narrowly(self, dtype: torch.dtype) -> None:
        """Collect with a copy of the averaged weights, those of products in ``dtype``, under autocast."""
        self.narrow = NarrowCopy(self.average.module, dtype)

    @torch.no_grad()
    def start(self, model: WorldModel, prefix: dict[str, Tensor] | None, window: dict[str, Tensor]) -> State:
        """Return the state of ``model`` before the window: nothing, one stored in replay, or the end of a burn-in."""
        initial = model.initial(len(window["action"]))
        if prefix is None:
            return initial
        stored = {key: prefix[MEMORY_PREFIX + key][:, -1] for key in initial.memory if MEMORY_PREFIX + key in prefix}
        if stored:
            return State(initial.feat, stored)
        return model.observe(prefix, initial)[1]

    @property
    def logs(self) -> bool:
        """Whether this update is one of those that are logged."""
        return self._trainer is None or self.trainer._logger_connector.should_update_logs

    def compile_losses(self, graphs: bool = False) -> None:
        """Compile the whole computation of the losses, resets included, with CUDA ``graphs`` where asked for."""
        self.step_losses = CompiledStep(self.losses, "the losses", graphs)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """Return what is to be minimised of one batch, and latents to be stored. What is not finite is refused."""
        self._batch = batch
        losses, rollout = self.step_losses(batch)
        later = self.planner.follow_up_losses if self.model.learns(self.planner) else ()
        self._rollout = rollout.detach() if later else None
        means = {name: wide(loss).mean() for name, loss in losses.items()}
        self.finite.watch(means, partial(self._refuse_losses, batch))
        total, weights = self.balance(means, later)
        if self.logs:
            latent, planner = self.model.dynamics.metrics(rollout), self.planner.metrics(rollout)
            watched = {"loss": means | {"total": total}, "latent": latent, "planner": planner, "balance": weights}
            for part, values in watched.items():
                self.log_dict({f"{part}/{name}": value.mean() for name, value in values.items()})
        return {"loss": total, "latents": self.newer_latents(rollout) if PLACE in batch else {}}

    def newer_latents(self, rollout: Rollout) -> Memory:
        """Return the memory of every row of a window, b-major, or nothing where acting has it in another form.

        As a transformer does, whose rows share the keys and values of their window.
        """
        dynamics = self.model.dynamics
        return dynamics.starts(rollout).memory if len(dynamics.layouts) == 1 else {}

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip after the backward pass. Log the norm before and after."""
        parameters = self._with_gradient(optimizer)
        before = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        self.finite.watch({"norm": before}, partial(self._refuse_gradient, self._batch))
        self.clip_gradients_of(optimizer)
        if self.logs:
            after = torch.nn.utils.get_total_norm([p.grad for p in parameters])
            self.log_dict({"grad/norm": before, "grad/norm_after_clip": after})

    def clip_gradients_of(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip whatever has a gradient, in place."""
        for together in self._clipped_together(self._with_gradient(optimizer)):
            self.clip(together)

    def _with_gradient(self, optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
        return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]

    def _clipped_together(self, parameters: list[nn.Parameter]) -> list[Tensors]:
        """Split what shapes the latent, what only watches it, and the balance, into groups that are clipped apart.

        Else a probe's gradient would scale the steps of all others down.
        """
        parts = (*self.model.heads.values(), *self.model.objectives.values())
        group_of = {id(p): 1 for part in parts if not part.trains_latent for p in part.parameters()}
        group_of |= {id(p): 2 for p in self.balance.parameters()}
        learned = {id(p) for p in parameters}
        tensors = [parts for parts in self.tensors if id(parts[0]) in learned]
        groups = ([parts for parts in tensors if group_of.get(id(parts[0]), 0) == group] for group in range(3))
        return [group for group in groups if group]

    def on_train_start(self) -> None:
        """Set the configuration's learning rates, not those that a resumed run's checkpoint brings along."""
        self.average.eval()
        if self.narrow is not None:
            self.narrow.follow()
        for group, configured in zip(
            self.optimizers().param_groups, self.configure_optimizers().param_groups, strict=True
        ):
            group["lr"] = group["full_lr"] = configured["lr"]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step at the rate that the warm-up has reached, and do what follows a step.

        Callbacks' ``on_train_batch_end`` save before the module's, which would be too late.
        """
        for group in self.optimizers().param_groups:
            group["lr"] = group["full_lr"] * warmed_up(self.warmup, self.trainer.global_step)
        super().optimizer_step(*args, **kwargs)
        self.finish_step(self.optimizers(use_pl_optimizer=False), self.trainer.precision_plugin.train_step_context)

    def finish_step(self, optimizer: torch.optim.Optimizer, context: Callable[[], AbstractContextManager]) -> None:
        """Take the planner's further step, if it has one, and move what follows the weights."""
        if self._rollout is not None:
            window = split_context(self._batch, self.prefix)[1]
            self._later = self.second_step(optimizer, self._rollout, window, context)
        self.after_step()

    def second_step(
        self,
        optimizer: torch.optim.Optimizer,
        rollout: Rollout,
        window: dict[str, Tensor],
        context: Callable[[], AbstractContextManager],
    ) -> dict[str, Tensor]:
        """Take the planner's further step, of losses on weights that the first has moved. Return their means.

        ``rollout`` is that of the first step, detached; the losses are computed within ``context``.
        """
        optimizer.zero_grad(set_to_none=True)
        with context():
            losses = self.planner.follow_up(self.model, rollout, window)
        means = {name: wide(loss).mean() for name, loss in losses.items()}
        self.finite.watch(means, partial(self._refuse_losses, self._batch))
        torch.stack([self.balance.scales[name] * mean for name, mean in means.items()]).sum().backward()
        self.clip_gradients_of(optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {name: mean.detach() for name, mean in means.items()}

    def on_train_batch_end(self, *_: Any) -> None:
        """Log the losses of the second step."""
        if self.logs:
            self.log_dict({f"loss/{name}": mean for name, mean in self._later.items()})

    def after_step(self) -> None:
        """Let planner and objectives update their moving averages, and update that of all weights."""
        self.planner.after_step()
        self.model.after_step()
        self.average.update(nn.ModuleDict({"model": self.model, "planner": self.planner}))
        if self.narrow is not None:
            self.narrow.follow()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build one optimiser. A part with options of its own is a group of its own, and so is a second step's."""
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        later = {id(parameter) for parameter in self.planner.follow_up_parameters()}
        for name, parameter in self._learned_parameters():
            bare = name.replace("model.dynamics.backbone.", "model.dynamics.")  # beside a goal it is called the same
            part = next((part for part in self.parts if bare.startswith(part + ".")), "")
            groups.setdefault((part, id(parameter) in later), []).append(parameter)
        unknown = sorted(self.parts.keys() - {part for part, _ in groups})
        if unknown:
            parts = sorted({".".join(name.split(".")[:2]) for name, _ in self._learned_parameters()})
            raise UserError(f"optimizer.param_groups names {unknown[0]!r}, which has no parameters; parts are {parts}.")
        return self._optimizer([{"params": group, **self.parts.get(part, {})} for (part, _), group in groups.items()])

    def _learned_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name all parameters but the averages."""
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let nothing be saved that an update which was not finite has damaged."""
        self.finite.settle()

    def on_train_end(self) -> None:
        """Look at what the last updates left to be seen."""
        self.finite.settle()

    def _refuse_losses(self, batch: dict[str, Tensor], names: list[str]) -> None:
        self._stop_at_bad_batch(batch, f"loss {', '.join(names)}")

    def _refuse_gradient(self, batch: dict[str, Tensor], _: list[str]) -> None:
        names = [name for name, p in self.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        self._stop_at_bad_batch(batch, f"the gradient of {', '.join(names[:3])}")

    def _stop_at_bad_batch(self, batch: dict[str, Tensor], what: str) -> None:
        try:
            torch.save(batch, self.bad_batch)
            where = f"is in {self.bad_batch}"
        except (OSError, RuntimeError) as error:  # torch's zip writer raises the second
            where = f"could not be saved ({str(error).splitlines()[0]})"
        raise UserError(
            f"{what} is not finite; the batch {where}: look at it, lower optimizer.lr, or use "
            "trainer.precision=fp32, and continue with resume=<this run>."
        )
