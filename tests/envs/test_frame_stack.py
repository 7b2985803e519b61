"""Stacks of frames and shifted images: what TD-MPC2 sees of pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from places import CONFIGS
from refusals import refuses

from worldmodels.common.frames import last_frame
from worldmodels.envs import make
from worldmodels.envs.check import check
from worldmodels.nets.augment import RandomShift
from worldmodels.nets.encoders import Encoder

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


def test_an_encoder_shifts_while_it_learns():
    spec = {"pixels": ((9, 16, 16), torch.uint8)}
    encoder = Encoder(spec, depth=4, units=8, random_shift=3)
    obs = {"pixels": torch.randint(256, (2, 5, 9, 16, 16), dtype=torch.uint8)}
    assert not torch.equal(encoder(obs), encoder(obs))
    assert torch.equal(encoder.eval()(obs), encoder(obs))
    with refuses("random_shift", -1):
        Encoder(spec, depth=4, units=8, random_shift=-1)
