"""Diffusion model of trajectories: what is normalised, given, hidden and guided. The networks are in denoisers.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from planners.diffusion.denoisers import Denoiser, StepEmbedding
from planners.diffusion.noise_schedule import NoiseSchedule, Sampler
from planners.streams import RowStreams
from worldmodels.common.batch import mean_over
from worldmodels.common.options import Between, Count, MultipleOf, checked
from worldmodels.common.precision import wide
from worldmodels.errors import OptionError
from worldmodels.nets.layers import DEFAULT_STYLE, MLP, NetStyle

Score = Callable[[Float[Tensor, "N L D"]], Float[Tensor, " N"]]
"""Preference of a guide among trajectories in the units of the data. Higher is better."""


@dataclass(frozen=True)
class Condition:
    """A label that a plan is to have, and how strongly: 0 ignores it, 1 samples what was recorded under it."""

    value: Float[Tensor, "N V"]
    weight: float


class Normalizer(nn.Module):
    """Mean and deviation of every number, followed while learning and saved with the weights.

    Args:
        size: numbers.
        rate: at which they go on moving, once so many batches are in that each would count less.
        floor: under the deviation, so that what never varies is not blown up.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int, rate: float = 1e-3, floor: float = 1e-2) -> None:
        super().__init__()
        self.rate, self.floor = rate, floor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load weights of before, which held the mean of squares, too."""
        if (square := state_dict.pop(f"{prefix}square", None)) is not None:
            state_dict[f"{prefix}variance"] = square - state_dict[f"{prefix}mean"].square()
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def follow(self, x: Float[Tensor, "N L D"], counts: Bool[Tensor, " N"]) -> None:
        """Take in a batch, of which some rows count."""
        self.count += counts.any()
        rate = counts.any() * (1 / self.count.clamp(min=1)).clamp(min=self.rate)
        share = (counts / counts.sum().clamp(min=1))[:, None]
        x = wide(x.detach())
        mean = (share * x.mean(1)).sum(0)
        # Within the batch, and between it and what was: no mean is ever squared, as Chan et al. (1979) add variances.
        spread = (share * (x - mean).square().mean(1)).sum(0) + (1 - rate) * (mean - self.mean).square()
        self.mean.lerp_(mean, rate)
        self.variance.lerp_(spread, rate)

    def std(self) -> Float[Tensor, " D"]:
        """The deviation, at least the floor."""
        return self.variance.clamp(min=self.floor**2).sqrt()

    def mean_square(self) -> Float[Tensor, " D"]:
        """The mean of the squares."""
        return self.variance + self.mean.square()

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Normalise to mean 0 and deviation 1."""
        return (x - self.mean) / self.std()

    def inverse(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Return to the units of the data."""
        return x * self.std() + self.mean


class ConditionEmbedding(nn.Module):
    """Names to conditions of a trajectory, each a vector. One that is not given has a vector of its own.

    Args:
        widths: numbers of each label.
        dim: of what they become together, a sum.
        drop: share of training trajectories from which each is hidden, so that guidance has something to differ from.
    """

    def __init__(self, widths: Mapping[str, int], dim: int, drop: float, style: NetStyle = DEFAULT_STYLE) -> None:
        super().__init__()
        self.drop = drop
        self.nets = nn.ModuleDict({name: MLP(width, dim, 1, dim, style=style) for name, width in widths.items()})
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(dim)) for name in widths})

    def forward(
        self,
        values: Mapping[str, Float[Tensor, "N _"]],
        rows: int,
        hide: Mapping[str, Bool[Tensor, " N"]] | None = None,
    ) -> Float[Tensor, "N C"] | float:
        """Sum over all labels. Those without a value, and rows under ``hide``, count as not given."""
        total: Tensor | float = 0.0
        for name, net in self.nets.items():
            absent = self.absent[name].expand(rows, -1)
            if name not in values:
                total = total + absent
                continue
            given = net(values[name])
            total = total + (given if hide is None else torch.where(hide[name][:, None], absent, given))
        return total


class TrajectoryModel(nn.Module):
    """Sequences of latents and actions, or of one of both alone, denoised as a whole (Diffuser, Decision Diffuser).

    Some latents of a trajectory are *given*: they are never noisy, neither in training nor in any step of sampling, and
    come out as they went in. Where actions alone are denoised, as in D-MPC (Zhou et al. 2025), the other latents are
    the data's mean for the network and come out so. ``feat_dim`` are numbers of a latent, ``labels`` those of each
    label.
    """

    @checked
    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        labels: Mapping[str, int],
        schedule: Annotated[NoiseSchedule, "how much noise each diffusion step holds"],
        net: Annotated[Callable[..., Denoiser], "what denoiser= chooses"],
        latents: Annotated[bool, "false: actions alone, from the latents that are given"] = True,
        actions: Annotated[bool, "false: latents alone, and actions by inverse dynamics"] = True,
        action_share: Annotated[
            float, Between(0, 1, "both"), "of the loss that is about actions, where latents are denoised beside them"
        ] = 0.3,
        levels: Annotated[Count, "noise levels at which an update learns each trajectory"] = 1,
        cond_dim: Annotated[int, MultipleOf(2), "numbers of the condition: diffusion step and labels"] = 64,
        drop: Annotated[float, Between(0, 1, "both"), "share of trajectories from which a label is hidden"] = 0.25,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        if not latents and not actions:
            raise OptionError("latents", latents, "leaves nothing to denoise beside actions=false")
        self.feat_dim, self.size = feat_dim, feat_dim + action_dim * actions
        self.action_weight = action_share / (1 - action_share) * feat_dim / action_dim
        self.schedule, self.latents, self.actions, self.levels = schedule, latents, actions, levels
        self.normalizer = Normalizer(self.size)
        self.step = StepEmbedding(cond_dim, style)
        self.labels = ConditionEmbedding(labels, cond_dim, drop, style)
        self.net = net(in_dim=self.size + 1, out_dim=self.size - feat_dim * (not latents), cond_dim=cond_dim)

    def latent_mean(self) -> Float[Tensor, " F"]:
        """Means of the latents alone."""
        return self.normalizer.mean[: self.feat_dim]

    def latent_std(self) -> Float[Tensor, " F"]:
        """Deviations of the latents alone."""
        return self.normalizer.std()[: self.feat_dim]

    def loss(
        self,
        x: Float[Tensor, "N L D"],
        given: Bool[Tensor, "N L"],
        labels: Mapping[str, Float[Tensor, "N _"]],
    ) -> Float[Tensor, "N L"]:
        """Squared error of what the network predicts at random diffusion steps, mean over what was not given.

        Actions have their share of it, however many numbers a latent has.
        """
        rows, labels = len(x), {name: value.repeat(self.levels, 1) for name, value in labels.items()}
        x, given = x.repeat(self.levels, 1, 1), given.repeat(self.levels, 1)
        clean = self.normalizer(x)
        noise = torch.randn_like(clean)
        step = torch.randint(self.schedule.steps, (len(x),), device=x.device)
        noisy = torch.where(self._mask(given), clean, self.schedule.add_noise(clean, noise, step))
        hide = {name: torch.rand(len(x), device=x.device) < self.labels.drop for name in labels}
        output = self._output(noisy, step, given, labels, hide)
        error = (output - self.schedule.target(clean, noise, step)).square()
        action = torch.arange(self.size, device=x.device) >= self.feat_dim
        counts = ~self._mask(given) * torch.where(action, self.action_weight, float(self.latents))
        return mean_over((error * counts).sum(-1), counts).unflatten(0, (self.levels, rows)).mean(0)

    def clean(
        self,
        noisy: Float[Tensor, "N L D"],
        step: Int64[Tensor, " N"],
        given: Bool[Tensor, "N L"],
        labels: Mapping[str, Float[Tensor, "N _"]],
        hide: Mapping[str, Bool[Tensor, " N"]] | None = None,
    ) -> Float[Tensor, "N L D"]:
        """Estimate normalised trajectories without noise, under these labels, from some of which they may be hidden."""
        estimate = self.schedule.clean(self._output(noisy, step, given, labels, hide), noisy, step)
        return estimate if self.latents else self._without_latents(estimate)

    def guided(
        self,
        noisy: Float[Tensor, "N L D"],
        step: Int64[Tensor, " N"],
        given: Bool[Tensor, "N L"],
        conditions: Mapping[str, Condition],
    ) -> Float[Tensor, "N L D"]:
        """Classifier-free guidance (Ho & Salimans 2022): ``u + sum_i w_i (c_i - u)``, all estimates in one batch.

        Each label conditions alone, against none. Weight 1, their w = 0, gives the conditional estimate, to the bit.
        """
        weighed = {name: condition for name, condition in conditions.items() if condition.weight != 0}
        free = 1 - sum(condition.weight for condition in weighed.values())
        shares = [condition.weight for condition in weighed.values()] + [free] * (free != 0)
        count, block = len(shares), torch.arange(len(shares), device=noisy.device)
        if count == 1:
            return self.clean(noisy, step, given, {name: condition.value for name, condition in weighed.items()})
        labels = {name: condition.value.repeat(count, 1) for name, condition in weighed.items()}
        hide = {name: (block != i).repeat_interleave(len(noisy)) for i, name in enumerate(weighed)}
        all_of_them = self.clean(noisy.repeat(count, 1, 1), step.repeat(count), given.repeat(count, 1), labels, hide)
        return sum(share * one for share, one in zip(shares, all_of_them.chunk(count), strict=True))

    def apply_guidance(
        self, clean: Float[Tensor, "N L D"], step: Int64[Tensor, " N"], score: Score
    ) -> Float[Tensor, "N L D"]:
        """Move along the gradient of ``score``, more the more noise there still is (Diffuser, algorithm 1).

        The gradient is with respect to normalised numbers. By ``1 - abar``: exactly so a unit Gaussian is tilted by a
        linear score.
        """
        with torch.enable_grad():
            at = clean.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(score(self.normalizer.inverse(at)).sum(), [at])
        return clean + self.schedule.noise_share(step)[:, None, None] * gradient

    def sample(
        self,
        known: Float[Tensor, "N L F"],
        given: Bool[Tensor, "N L"],
        conditions: Mapping[str, Condition],
        sampler: Sampler,
        streams: RowStreams,
        score: Score | None = None,
        begin: Float[Tensor, "N L D"] | None = None,
        share: float = 1.0,
        hook: Callable[[Tensor], None] | None = None,
    ) -> Float[Tensor, "N L D"]:
        """Sample trajectories in the units of the data, with ``known`` latents where they are ``given``, bit for bit.

        Each of the ``streams`` draws for as many consecutive rows as there are to a stream.
        ``begin``, in the units of the data too, gets the last ``share`` of the noise and is denoised again. ``hook`` is
        shown every step's estimate, in the units of the data too.
        """
        rows, length = given.shape
        blank = known.new_zeros(rows, length, self.size - self.feat_dim)
        fixed, mask = self.normalizer(torch.cat([known, blank], dim=-1)), self._mask(given)

        def estimate(noisy: Tensor, step: Tensor) -> Tensor:
            steps = step.expand(rows)
            clean = self.guided(torch.where(mask, fixed, noisy), steps, given, conditions)
            if score is not None:
                clean = self.apply_guidance(torch.where(mask, fixed, clean), steps, score)
            return torch.where(mask, fixed, clean)

        x = sampler(
            estimate,
            (rows, length, self.size),
            streams,
            known.device,
            None if begin is None else self.normalizer(begin),
            share,
            None if hook is None else lambda x: hook(self.normalizer.inverse(x)),
        )
        return torch.where(mask, torch.cat([known, blank], dim=-1), self.normalizer.inverse(x))

    def _output(
        self,
        noisy: Tensor,
        step: Tensor,
        given: Tensor,
        labels: Mapping[str, Tensor],
        hide: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        cond = self.step(step) + self.labels(labels, len(noisy), hide)
        noisy = noisy if self.latents else torch.where(self._mask(given), noisy, self._without_latents(noisy))
        output = wide(self.net(torch.cat([noisy, given[..., None].to(noisy.dtype)], dim=-1), cond))
        return output if self.latents else F.pad(output, (self.feat_dim, 0))

    def _without_latents(self, x: Tensor) -> Tensor:
        return F.pad(x[..., self.feat_dim :], (self.feat_dim, 0))

    def _mask(self, given: Bool[Tensor, "N L"]) -> Bool[Tensor, "N L D"]:
        """True where a number is given: latents are, actions never."""
        return given[..., None] & (torch.arange(self.size, device=given.device) < self.feat_dim)
