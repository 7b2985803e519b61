"""Returns and values of imagined and recorded trajectories."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from worldmodels.common.batch import goal_changed
from worldmodels.common.precision import wide


def lambda_returns(
    reward: Float[Tensor, "N H"],
    cont: Float[Tensor, "N H"],
    value: Float[Tensor, "N H"],
    gamma: float,
    lam: float | Float[Tensor, "N H"],
) -> Float[Tensor, "N H"]:
    """Lambda-returns of the H states before each step, fp32 (DreamerV3, eq. 4).

    ``reward``, ``cont`` and ``value`` are of the state each step arrives in:
    ``R_t = r_t + gamma c_t ((1 - lam) v_t + lam R_{t+1})``, where the last step has ``R_{t+1} = v_t``. ``lam`` may
    differ by step: 0 bootstraps there, as where an episode was cut off, and nothing after it counts.
    """
    reward, value, discount = wide(reward), wide(value), gamma * wide(cont)
    later = discount * lam
    now = reward + (discount - later) * value
    following, returns = value[:, -1], []
    for first, share in zip(now.unbind(1)[::-1], later.unbind(1)[::-1], strict=True):
        following = torch.addcmul(first, share, following)
        returns.append(following)
    return torch.stack(returns[::-1], dim=1)


def recorded_returns(
    batch: dict[str, Tensor], value: Float[Tensor, "B T1"], gamma: float, lam: float
) -> Float[Tensor, "B T1"]:
    """Lambda-returns of all recorded rows but the last, from the value of where each led, under its own goal.

    They bootstrap where a time limit cut an episode off and where another goal is shown from then on, and not where it
    ended for good. A row that ends its episode leads nowhere: what is told of it is without meaning.
    """
    going = (~batch["is_terminal"]).to(value.dtype)
    lam = lam * (~(batch["is_last"] | goal_changed(batch))).to(value.dtype)
    return lambda_returns(batch["reward"][:, 1:], going[:, 1:], value, gamma, lam[:, 1:])


def reach_weights(alive: Shaped[Tensor, " N"], cont: Float[Tensor, "N H"], gamma: float) -> Float[Tensor, "N H"]:
    """How much the H states before each step count: discounted probability of getting there, none from a dead start.

    ``alive`` says whether the starts go on, as flags or as probabilities.
    """
    weights = torch.cat([alive.to(cont.dtype)[:, None], gamma * cont[:, :-1]], dim=1)
    return weights.cumprod(dim=1).detach()
