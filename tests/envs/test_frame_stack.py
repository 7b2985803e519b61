"""Stacks of frames and shifted images: what TD-MPC2 sees of pixels."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from model_cases import ACTION, BOTH, batch, model, with_reset
from omegaconf import OmegaConf
from places import CONFIGS
from refusals import refuses

from planners.random import Random
from worldmodels.common.frames import last_frame
from worldmodels.envs import make
from worldmodels.envs.check import check
from worldmodels.nets.augment import RandomShift
from worldmodels.nets.encoders import Encoder, pixels_to_float
from worldmodels.training.losses import FixedScales
from worldmodels.training.module import WorldModelModule
from worldmodels.training.optim import NormClip

COUNTER = CONFIGS / "env" / "counter.yaml"


def stacked(**options):
    return OmegaConf.to_container(OmegaConf.load(COUNTER)) | {"obs": "both", "stack": 3} | options


def steps_of(observation):
    """The step that each frame of a stack was drawn in, oldest first."""
    return observation["pixels"].reshape(3, 3, 16, 16)[:, 2, 3, 7].tolist()


def test_frame_stack__begins_with_the_first_frame_repeated():
    """A stack holds the newest frames, over several episodes, and last_frame gives the newest of all."""
    env, bare = make(stacked(lengths=[5, 5]), 0), make(stacked(lengths=[5, 5], stack=1), 0)
    assert env.observation_space["pixels"].shape == (9, 16, 16)
    for _ in range(2):
        frames = [bare.reset()[0]["pixels"]] * 3
        np.testing.assert_array_equal(env.reset()[0]["pixels"], np.concatenate(frames))
        for _ in range(4):
            action = np.full(env.action_space.shape, 0.5, np.float32)
            frames = [*frames[1:], bare.step(action)[0]["pixels"]]
            observation = env.step(action)[0]
            np.testing.assert_array_equal(observation["pixels"], np.concatenate(frames))
            np.testing.assert_array_equal(last_frame(torch.from_numpy(observation["pixels"])), frames[-1])


@pytest.mark.process
def test_a_stacked_environment_passes_the_checker():
    assert [outcome for _, outcome in check(stacked(), steps=40)] == ["ok"] * 5


def test_a_stacked_snapshot_fits_an_environment_without_a_stack():
    env, bare = make(stacked(), 0), make(stacked(stack=1), 5)
    env.reset()
    bare.reset()
    action = np.full(env.action_space.shape, 0.5, np.float32)
    observation = env.step(action)[0]
    restored = bare.restore(env.snapshot())  # as the oracle's simulators are, which draw nothing
    np.testing.assert_array_equal(restored["state"], observation["state"])


def test_there_is_nothing_to_stack_in_a_state():
    with refuses("env.stack", 3):
        make(stacked(obs="state"), 0)
    with refuses("env.stack", 0):
        make(stacked(stack=0), 0)


def crops(image, most):
    """Every image that a shift by whole pixels can give."""
    padded = np.pad(image.numpy(), [(0, 0), (most, most), (most, most)], mode="edge")
    size, places = image.shape[-1], range(2 * most + 1)
    return {padded[:, i : i + size, j : j + size].tobytes(): (i - most, j - most) for i in places for j in places}


def test_random_shift__moves_images_by_whole_pixels():
    """Each image is moved by itself, in training only; acting and a shift of zero leave images alone."""
    torch.manual_seed(0)
    images = torch.rand(64, 6, 16, 16)
    shift = RandomShift(2)
    known = [crops(image, 2) for image in images]
    moved = [known[i][image.numpy().tobytes()] for i, image in enumerate(shift(images).contiguous())]
    assert len(set(moved)) > 15  # of 25
    assert {row for row, _ in moved} == {column for _, column in moved} == {-2, -1, 0, 1, 2}
    assert torch.equal(shift.eval()(images), images)
    assert torch.equal(RandomShift(0)(images), images)


def test_random_shift__takes_bytes_with_any_leading_axes():
    shift, images = RandomShift(2), torch.randint(256, (2, 3, 6, 16, 16), dtype=torch.uint8)
    moved = shift(images)
    assert (moved.shape, moved.dtype) == (images.shape, images.dtype)
    flat = zip(moved.flatten(0, 1), images.flatten(0, 1), strict=True)
    assert all(each.numpy().tobytes() in crops(image, 2) for each, image in flat)


def test_what_is_reconstructed_is_moved_with_what_is_seen(tmp_path):
    """Else a latent would be asked for what it cannot know. Goals and a model that is scored see images as they are."""
    world = model("encoder.random_shift=3", observations=BOTH)
    seen, rebuilt = [], []
    world.encoder.pixels.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    decoder = world.objectives["reconstruction"].decoder["pixels"]
    loss = decoder.loss
    decoder.loss = lambda feat, pixels: (rebuilt.append(pixels), loss(feat, pixels))[1]
    rows = with_reset(batch(observations=BOTH))
    trained = WorldModelModule(
        world,
        Random(ACTION, False),
        partial(torch.optim.SGD, lr=0.1),
        NormClip(1.0),
        FixedScales({}),
        {},
        0,
        0.0,
        tmp_path,
    )
    trained.train().losses(rows)
    torch.testing.assert_close(seen[0].unflatten(0, rebuilt[0].shape[:2]), pixels_to_float(rebuilt[0]) - 0.5)
    assert not torch.equal(rebuilt[0], rows["pixels"])
    trained.eval().losses(rows)
    assert torch.equal(rebuilt[1], rows["pixels"])


def test_a_negative_shift_is_refused():
    spec = {"pixels": ((9, 16, 16), torch.uint8)}
    with refuses("random_shift", -1):
        Encoder(spec, depth=4, units=8, random_shift=-1)
