"""Noise schedules and samplers, all of them diffusers', behind one convention: networks tell what is clean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from planners.streams import RowStreams
from worldmodels.common.host import send
from worldmodels.common.options import AtLeast, Count, checked
from worldmodels.errors import OptionError

Prediction = Literal["epsilon", "sample", "v_prediction"]
"""Meaning of a network's output: the noise, the clean trajectory, or the velocity between them."""
MAX_BETA = 0.95
"""Cap of the share of the signal that a step may destroy. The usual 0.999 leaves so little of it in the last step that
the error of a predicted noise, divided by what is left, drowns the plan; 0.95 leaves as good as nothing too."""
COMMON = {
    "prediction_type": "sample",
    "timestep_spacing": "trailing",  # from pure noise on, however few steps there are
}
SamplerName = Literal["ddpm", "ddim", "dpm"]
SAMPLERS = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "variance_type": "fixed_large"}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True}),
    "dpm": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}),
}
"""diffusers' classes. Their defaults give no Gaussian back: they clip what they predict to [-1, 1], and DDPM's
smaller variance, meant for data without any, leaves 5 to 10 % of it out in 100 steps (the larger: 3 % at most)."""

Clean = Callable[[Float[Tensor, "N L D"], Int64[Tensor, ""]], Float[Tensor, "N L D"]]
"""From noisy trajectories and the diffusion step to what they are without noise."""


def diffusers() -> Any:
    """The library, imported where it is used: it takes seconds, and most planners do without."""
    import diffusers

    return diffusers


def cosine_betas(steps: int) -> np.ndarray:
    """diffusers' cosine schedule, capped at :data:`MAX_BETA`."""
    from diffusers.schedulers.scheduling_ddpm import betas_for_alpha_bar

    return betas_for_alpha_bar(steps, max_beta=MAX_BETA).numpy()


class NoiseSchedule:
    """The cosine schedule (Nichol & Dhariwal 2021): how much noise each of ``steps`` diffusion steps holds.

    Step k is k + 1 in papers, where step 0 is without noise.
    """

    @checked
    def __init__(
        self,
        steps: Annotated[int, AtLeast(2), "diffusion steps of training"] = 100,
        prediction: Annotated[Prediction, "what the network's output stands for"] = "sample",
    ) -> None:
        self.steps, self.prediction = steps, prediction
        self.betas = cosine_betas(steps)
        self._scheduler = diffusers().DDPMScheduler(steps, trained_betas=self.betas, prediction_type=prediction)

    def add_noise(
        self, clean: Float[Tensor, "N L D"], noise: Float[Tensor, "N L D"], step: Int64[Tensor, " N"]
    ) -> Float[Tensor, "N L D"]:
        """``sqrt(abar) x + sqrt(1 - abar) eps``."""
        return self._scheduler.add_noise(clean, noise, step)

    def target(
        self, clean: Float[Tensor, "N L D"], noise: Float[Tensor, "N L D"], step: Int64[Tensor, " N"]
    ) -> Float[Tensor, "N L D"]:
        """Return what the network is to predict."""
        if self.prediction == "v_prediction":
            return self._scheduler.get_velocity(clean, noise, step)
        return noise if self.prediction == "epsilon" else clean

    def clean(
        self, output: Float[Tensor, "N L D"], noisy: Float[Tensor, "N L D"], step: Int64[Tensor, " N"]
    ) -> Float[Tensor, "N L D"]:
        """The clean trajectory that a network's output stands for."""
        if self.prediction == "sample":
            return output
        abar = self._abar(step)[:, None, None]
        if self.prediction == "epsilon":
            return (noisy - (1 - abar).sqrt() * output) / abar.sqrt()
        return abar.sqrt() * noisy - (1 - abar).sqrt() * output

    def noise_share(self, step: Int64[Tensor, " N"]) -> Float[Tensor, " N"]:
        """``1 - abar``: the variance that is noise."""
        return 1 - self._abar(step)

    def _abar(self, step: Int64[Tensor, " N"]) -> Float[Tensor, " N"]:
        self._scheduler.alphas_cumprod = send(self._scheduler.alphas_cumprod, step.device)  # as its own methods do
        return self._scheduler.alphas_cumprod[step]


class Sampler:
    """Turns noise into trajectories in ``steps`` steps, fewer than were trained where the sampler allows it.

    Args:
        schedule: that the network was trained on.
        name: ``ddpm`` draws noise on the way, ``ddim`` and ``dpm`` (DPM-Solver++) draw none.
        steps: of sampling.
    """

    @checked
    def __init__(self, schedule: NoiseSchedule, name: SamplerName, steps: Count) -> None:
        if steps > schedule.steps:
            raise OptionError("steps", steps, f"must be at most {schedule.steps}, those that the network learned")
        if name == "ddim" and schedule.steps % steps:
            raise OptionError(
                "steps",
                steps,
                f"must divide {schedule.steps} with ddim, whose steps are equally long; or use dpm",
            )
        self.schedule, self.name, self.steps = schedule, name, steps
        self._known: dict[int, tuple[Move, ...]] = {}

    def moves(self, share: float) -> tuple[Move, ...]:
        """Return the steps of the last ``share`` of the noise, which are worked out once."""
        last = max(1, round(share * self.steps))
        if last not in self._known:
            self._known[last] = moves(self.schedule.steps, self.name, self.steps, last)
        return self._known[last]

    def __call__(
        self,
        clean: Clean,
        shape: tuple[int, int, int],
        streams: RowStreams,
        device: torch.device,
        begin: Float[Tensor, "N L D"] | None = None,
        share: float = 1.0,
        hook: Callable[[Tensor], None] | None = None,
    ) -> Float[Tensor, "N L D"]:
        """Denoise from pure noise, or from ``begin`` with the last ``share`` of the steps' noise put onto it.

        Each of the ``streams`` draws for as many consecutive rows as there are to a stream. ``hook`` is shown what
        every step takes to be clean.
        """
        steps = self.moves(share)
        count, draws = shape[0] // len(streams), 1 + sum(move.noise != 0 for move in steps[:-1])
        noises = iter(streams.normal(count, draws, *shape[1:]).flatten(0, 1).unbind(1))
        x = next(noises)
        if begin is not None:
            x = self.schedule.add_noise(begin, x, torch.full((shape[0],), steps[0].step, device=device))
        before = estimate = x
        for move in steps:
            before, estimate = estimate, clean(x, torch.full((), move.step, device=device))
            if hook is not None:
                hook(estimate)
            if move is steps[-1]:
                break  # what is clean gets no more noise, which some schedulers would add or leave in
            x = torch.add(move.stay * x, estimate, alpha=move.go)
            if move.before:
                x = torch.add(x, before, alpha=move.before)
            if move.noise:
                x = torch.add(x, next(noises), alpha=move.noise)
        return estimate


@dataclass(frozen=True)
class Move:
    """A step of sampling: ``stay x + go clean + before (what was taken to be clean a step before) + noise eps``."""

    step: int
    stay: float
    go: float
    before: float
    noise: float


@cache
def moves(learned: int, name: SamplerName, steps: int, last: int) -> tuple[Move, ...]:
    """Read the ``last`` of ``steps`` steps of a sampler of diffusers off what it does to unit vectors: all are linear.

    A GPU need not be waited for then, as by a scheduler that compares steps on the device.
    """
    kind, options = SAMPLERS[name]
    scheduler = getattr(diffusers(), kind)(learned, trained_betas=cosine_betas(learned), **COMMON, **options)
    scheduler.set_timesteps(steps)
    known = scheduler.timesteps[:steps][-last:]  # rounding gives some numbers of steps one more, before the first
    found, axes = [], torch.eye(last + 2, dtype=torch.float64)[None]
    for i, step in enumerate(known[:-1]):
        given = {"generator": torch.Generator().manual_seed(0)} if name == "ddpm" else {}
        moved = scheduler.step(axes[:, i], step, axes[:, -1], **given).prev_sample[0].tolist()
        noise = torch.randn(axes[:, -1].shape, generator=torch.Generator().manual_seed(0), dtype=axes.dtype)[0].tolist()
        drawn = moved[-2] / noise[-2] if name == "ddpm" else 0.0
        stay, go, before = (moved[at] - drawn * noise[at] for at in (-1, i, i - 1))
        found.append(Move(int(step), stay, go, before if i else 0.0, drawn))
    return (*found, Move(int(known[-1]), 0.0, 1.0, 0.0, 0.0))
