"""Pictures: what they are made of, that they see no future, and that they are really where people look for them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from model_cases import batch, model, with_reset
from pictures import assert_animated
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from worldmodels.common.frames import add_gif
from worldmodels.visualization.imagination import IMAGINES, SEES, OpenLoop, draw_clips, draw_strip, open_loop

CONTEXT, HORIZON = 3, 4


def clip_of(rows: dict[str, torch.Tensor], sample: bool = False, seed: int = 0) -> OpenLoop:
    world = model()
    world.dynamics.sample = sample
    generator = torch.Generator().manual_seed(seed)
    return open_loop(world, with_reset(rows), world.initial(2), CONTEXT, HORIZON, generator)


@pytest.mark.parametrize("sample", [False, True])
def test_what_is_imagined_sees_no_frame_after_the_context(sample):
    rows = batch(length=CONTEXT + HORIZON)
    other = {key: value.clone() for key, value in rows.items()}
    for key in ("pixels", "state", "reward"):
        other[key][:, CONTEXT:] = batch(length=CONTEXT + HORIZON, seed=1)[key][:, CONTEXT:]
    for key in ("is_first", "is_last", "is_terminal"):
        other[key][:, CONTEXT:] = ~other[key][:, CONTEXT:]
    one, changed = clip_of(rows, sample), clip_of(other, sample)
    assert torch.equal(one.model, changed.model)
    assert not torch.equal(one.truth, changed.truth)
    other["pixels"][:, CONTEXT - 1] = 255 - other["pixels"][:, CONTEXT - 1]  # the last frame that is seen
    assert (clip_of(other, sample).model - one.model)[:, CONTEXT:].abs().max() > 1e-4


def test_what_is_imagined_follows_the_actions():
    rows = batch(length=CONTEXT + HORIZON)
    other = {**rows, "action": rows["action"].clone()}
    other["action"][:, CONTEXT + 1] *= -1
    one, changed = clip_of(rows), clip_of(other)
    assert torch.equal(one.model[:, : CONTEXT + 1], changed.model[:, : CONTEXT + 1])
    assert not torch.equal(one.model[:, CONTEXT + 1 :], changed.model[:, CONTEXT + 1 :])


def test_looking_leaves_the_global_random_stream_where_it_is():
    before = torch.get_rng_state()
    one = clip_of(batch(length=CONTEXT + HORIZON), sample=True)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(clip_of(batch(length=CONTEXT + HORIZON), sample=True).model, one.model)


def made_up(context: int = 2) -> OpenLoop:
    truth = torch.zeros(3, 5, 3, 32, 32)
    return OpenLoop(truth, truth + torch.arange(5.0)[:, None, None, None] / 10, context)


def test_errors_are_those_of_the_imagined_steps():
    torch.testing.assert_close(made_up().error(), torch.tensor([0.04, 0.09, 0.16]))


def test_draw_clips__shows_truth_model_and_error():
    """The border changes its color where seeing ends, and a strip shows one frame in so many."""
    frames = draw_clips(made_up(), windows=2)
    assert frames.dtype == np.uint8
    time, height, width, _ = frames.shape
    assert time == 5
    assert height / width == 3 / 2  # three rows, two windows
    for t in range(5):
        assert tuple(frames[t, 0, 0]) == (SEES if t < 2 else IMAGINES)
        truth, drawn, error = frames[t].reshape(3, height // 3, width, 3)[:, height // 6, width // 4]
        assert truth.tolist() == [0] * 3
        assert drawn.tolist() == error.tolist() == [round(25.5 * t)] * 3
    strip = draw_strip(made_up(), windows=2, every=2)
    assert strip.shape[0] / strip.shape[1] == 6 / 3


def test_animations_are_really_in_the_event_file(tmp_path):
    frames = draw_clips(made_up())
    with SummaryWriter(str(tmp_path)) as writer:
        add_gif(writer, "imagination/open_loop", frames, 7)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    [event] = events.Images("imagination/open_loop")
    assert event.step == 7
    assert (event.height, event.width) == frames.shape[1:3]
    assert_animated(event.encoded_image_string, len(frames))


def test_a_training_writes_clips_plans_and_curves_and_files(finished_run):
    events = EventAccumulator(str(finished_run), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()["images"]
    assert {"imagination/open_loop", "open_loop/error", "plan/chosen"} <= set(tags)
    clips = events.Images("imagination/open_loop")
    assert len(clips) == 5  # after updates 7, 14, 21, 28 and the last
    assert_animated(clips[-1].encoded_image_string, 8)
    assert clips[-1].step == 120
    plans = events.Images("plan/chosen")
    with Image.open(io.BytesIO(plans[0].encoded_image_string)) as image:
        assert image.n_frames == 1 + 3
    later = events.Images("plan/imagined_vs_observed")
    assert [event.step for event in later] == [event.step for event in plans][1:]  # each when the next one is drawn
    for event in later:
        with Image.open(io.BytesIO(event.encoded_image_string)) as image:
            assert 2 <= image.n_frames <= 1 + 3  # as far as the episode went
    assert len(events.Images("plan/predicted_vs_actual")) == len(later)
    assert_animated((finished_run / "imagine.gif").read_bytes(), 5)
    with Image.open(finished_run / "imagine.png") as image:
        assert image.format == "PNG"
