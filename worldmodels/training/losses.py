"""How the losses of all parts become the one number that is minimised: one contract, one class a way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LossBalance(nn.Module, ABC):
    """Weighs the mean of every loss. Built with ``scales``, one factor for every loss, no more and no fewer.

    Parameters of a balance are learned with the rest, clipped apart from it, saved, and named ``balance`` in
    ``optimizer.param_groups``.
    """

    def __init__(self, scales: Mapping[str, float]) -> None:
        super().__init__()
        self.scales = dict(scales)

    def forward(
        self, means: Mapping[str, Float[Tensor, ""]], later: Collection[str] = ()
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return what is minimised, and what is worth logging beside it.

        Args:
            means: of every loss but those of the update's second step.
            later: names of the latter.

        Raises:
            ValueError: losses and scales do not name the same.
        """
        if means.keys() | set(later) != self.scales.keys():
            raise ValueError(f"losses {sorted(means)} and loss_scales {sorted(self.scales)} must name the same")
        return self.weigh(means)

    @abstractmethod
    def weigh(self, means: Mapping[str, Float[Tensor, ""]]) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Do so for losses of the right names."""


class FixedScales(LossBalance):
    """The weighted sum, with the factors of the configuration."""

    def weigh(self, means: Mapping[str, Float[Tensor, ""]]) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Sum the scaled means. Nothing of it changes, so nothing is logged."""
        return torch.stack([self.scales[name] * mean for name, mean in means.items()]).sum(), {}
