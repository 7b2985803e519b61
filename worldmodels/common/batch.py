"""Columns of a batch beside observations: their names, and what is read off them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from worldmodels.common.choices import ContextMode
from worldmodels.common.columns import GOAL_PREFIX, LATER_PREFIX
from worldmodels.common.options import checked
from worldmodels.errors import OptionError

ROW_FLAGS = {"is_first": torch.bool, "is_last": torch.bool, "is_terminal": torch.bool}
"""Columns of flags in every row, and their types."""


def goal_changed(batch: dict[str, Tensor]) -> Bool[Tensor, "B T"]:
    """Mark rows that show another goal than the row before. What led there was rewarded on the way to that one."""
    new = torch.zeros_like(batch["is_first"])
    for shown in (value.flatten(2) for key, value in batch.items() if key.startswith(GOAL_PREFIX)):
        new[:, 1:] |= (shown[:, 1:] != shown[:, :-1]).any(-1)
    return new


def mean_over(loss: Float[Tensor, "..."], counted: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Scale a loss that is 0 where nothing counts, so that its plain mean becomes its mean over what is counted.

    ``counted`` is a mask, or the weights that the loss holds already.
    """
    return loss * loss.numel() / counted.sum().clamp(min=1e-9)


def mean_weights(valid: Bool[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return :func:`mean_over` as one weight a row, for several losses of the same rows."""
    return valid * (valid.numel() / valid.sum().clamp(min=1))


def split_context(
    batch: Mapping[str, Shaped[Tensor, "B P_plus_T ..."]], prefix: int
) -> tuple[dict[str, Shaped[Tensor, "B P ..."]] | None, dict[str, Shaped[Tensor, "B T ..."]]]:
    """Split a sampled batch into (``prefix`` rows in front or None, the window), each with ``reset``. The batch stays.

    ``reset`` is ``is_first``, and True at the very first row, before which nothing is known. With a prefix that row is
    in the prefix, and the window's own first step is a reset only where an episode really begins. ``is_first`` stays.
    """
    reset = batch["is_first"].clone()
    reset[:, 0] = True
    whole = {**batch, "reset": reset}
    later = {key: value for key, value in whole.items() if key.startswith(LATER_PREFIX)}
    rows = {key: value for key, value in whole.items() if key not in later}
    window = {key: value[:, prefix:] for key, value in rows.items()} | later
    return {key: value[:, :prefix] for key, value in rows.items()} if prefix else None, window


@checked
def context_rows(context: ContextMode, burn_in: int) -> int:
    """Return how many extra rows a context draws in front of a window."""
    if context == "burn_in" and burn_in < 1:
        raise OptionError("burn_in", burn_in, "must be at least 1 with context=burn_in: use context=none for nothing")
    return {"none": 0, "burn_in": burn_in, "latent": 1}[context]
