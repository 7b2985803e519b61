"""Long histories against those of a training window: what the two ways of filtering are, and when they agree."""

from __future__ import annotations

import pytest
import torch
from model_cases import STATE, batch, model

from dynamics.base import KL
from worldmodels.evaluation.histories import surprise
from worldmodels.testing.sequences import randomize


def episodes(rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    made = batch(3, rows, seed, STATE)
    made["is_first"][:, 1:] = False
    return made


@pytest.mark.parametrize("name", ["rssm", "ssm", "transformer"])
def test_carried_is_one_long_filter_and_restarted_are_windows(name):
    words = [f"dynamics={name}", *(["dynamics.core.window=8"] if name == "transformer" else [])]
    world = randomize(model(*words, observations=STATE)).eval()
    world.dynamics.sample = False
    rows, length = episodes(26), 8
    found = surprise(world, rows, length)
    assert found.carried.shape == found.restarted.shape == (24,)  # whole windows
    rows["reset"] = rows["is_first"].clone()
    rows["reset"][:, 0] = True
    if name != "transformer":  # which cannot see more than its window at once
        whole = {key: value[:, :24] for key, value in rows.items()}
        rollout, _, _ = world.observe(whole, world.initial(3))
        torch.testing.assert_close(found.carried, world.dynamics.metrics(rollout)[KL].mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.carried[:8], found.restarted[:8])
    window = {key: value[:, 12:20].clone() for key, value in rows.items()}
    window["reset"][:, 0] = True
    rollout, _, _ = world.observe(window, world.initial(3))
    expected = world.dynamics.metrics(rollout)[KL][:, 4:].mean(0)
    torch.testing.assert_close(found.restarted[16:20], expected, rtol=1e-3, atol=1e-4)
    assert found.ratio == pytest.approx((found.carried[8:].mean() / found.restarted[8:].mean()).item())


def test_every_row_behind_the_first_window_is_restarted():
    """Windows of an odd length do not fit into two halves: the last one ends where the episodes do."""
    world = randomize(model("dynamics=rssm", observations=STATE)).eval()
    world.dynamics.sample = False
    found = surprise(world, episodes(28), 7)
    assert (found.carried[7:] != found.restarted[7:]).all()


def test_a_backbone_without_a_prior_has_no_surprise():
    assert surprise(model("dynamics=implicit", observations=STATE), episodes(16), 8) is None
