"""Several cameras in one observation: each is encoded, decoded, scaled and drawn by itself."""

from __future__ import annotations

import pytest
import torch
from model_cases import BOTH, TWO_CAMERAS, batch, config, model, with_reset
from torch.testing import assert_close

from worldmodels.common.columns import cameras, observed
from worldmodels.errors import UserError
from worldmodels.factory import loss_scales
from worldmodels.nets.encoders import Encoder
from worldmodels.visualization.imagination import open_loop

WRIST = "pixels_wrist"


def test_columns_tell_cameras_from_other_observations():
    keys = ["reward", WRIST, "goal_pixels", "state", "pixels", "later_pixels", "memory.stoch"]
    assert cameras(keys) == ["pixels", WRIST]
    assert observed(keys) == ["pixels", WRIST, "state"]


def test_each_camera_has_its_part_of_the_embedding():
    """The first camera's and the state's weights are called as they are without another."""
    torch.manual_seed(0)
    encoder, alone = (Encoder(spec, 2, 8) for spec in (TWO_CAMERAS, BOTH))
    assert alone.state_dict().keys() < encoder.state_dict().keys()
    rows = batch(observations=TWO_CAMERAS)
    embed = encoder(rows)
    assert embed.shape[2:] == encoder.embed_shape
    changed = encoder({**rows, WRIST: 255 - rows[WRIST]}) != embed
    width = encoder.pixels.out_dim
    assert changed[..., width : width + encoder.cameras[WRIST].out_dim].any()
    assert not changed[..., :width].any()
    assert not changed[..., width + encoder.cameras[WRIST].out_dim :].any()


def test_each_camera_is_rebuilt_and_weighs_as_the_first():
    world = model(observations=TWO_CAMERAS)
    rows = with_reset(batch(observations=TWO_CAMERAS))
    losses, rollout = world.losses(rows, world.initial(2))
    assert losses.keys() == loss_scales(config(), TWO_CAMERAS).keys()
    assert world.decode(rollout.feat)[WRIST].shape == rows[WRIST].shape
    decoder = world.objectives["reconstruction"].decoder
    assert_close(losses[WRIST], decoder[WRIST].loss(rollout.feat, rows[WRIST]))
    scaled = loss_scales(config("loss_scales.pixels=0.5"), TWO_CAMERAS)
    assert (scaled["pixels"], scaled[WRIST]) == (0.5, 0.5)
    assert loss_scales(config(f"+loss_scales.{WRIST}=3.0"), TWO_CAMERAS)[WRIST] == 3.0
    assert WRIST not in loss_scales(config(), BOTH)
    with pytest.raises(UserError, match="there is no loss 'wrist'"):
        config("+loss_scales.wrist=3.0")


def test_a_clip_is_of_the_camera_that_is_asked_for():
    world, rows = model(observations=TWO_CAMERAS), with_reset(batch(length=6, observations=TWO_CAMERAS))
    clips = {camera: open_loop(world, rows, world.initial(2), 2, 4, camera=camera) for camera in cameras(rows)}
    for camera, clip in clips.items():
        assert clip.truth.shape == clip.model.shape == (2, 6, *TWO_CAMERAS[camera][0])
        assert_close(clip.truth, rows[camera].float() / 255)


def test_all_cameras_are_moved_while_training():
    torch.manual_seed(0)
    encoder, rows = Encoder(TWO_CAMERAS, 2, 8, random_shift=3).train(), batch(observations=TWO_CAMERAS)
    moved = encoder.augment(rows)
    assert all((moved[camera] != rows[camera]).any() for camera in cameras(rows))
    assert torch.equal(moved["state"], rows["state"])
