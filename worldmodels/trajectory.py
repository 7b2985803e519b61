"""What imagining gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Trajectory:
    """N imagined futures of H steps."""

    feat: Float[Tensor, "N H1 F"]
    """H + 1 states, the start included."""
    action: Float[Tensor, "N H A"]
    reward: Float[Tensor, "N H"]
    """Decoded reward of each step: for arriving in ``feat[:, 1:]``, or with ``heads=transition`` for the action."""
    cont: Float[Tensor, "N H"]
    """Probability in [0, 1] that ``feat[:, 1:]`` is not terminal."""
    extra: dict[str, Float[Tensor, "N H"]] = field(default_factory=dict)
    """What every other head reads of each step, by its name."""
