"""`suite=loop`: the parts of a training are all of its time, and the largest of them is named."""

from __future__ import annotations

import json

import pytest
import torch
from toy_runs import TINY

from worldmodels.benchmarks import loop
from worldmodels.common.timing import Stopwatch
from worldmodels.config import load_config

PARTS = {"act", "render", "step", "store", "sample", "copy", "update", "log"}


def test_parts_come_from_the_seconds_of_a_training():
    seconds = {"filter": 1.0, "plan": 2.0, "environments": 8.0, "replay": 5.0, "store": 1.5, "sample": 2.5}
    found = loop.named(seconds | {"copy": 0.25, "update": 7.0, "pictures": 0.5}, 0.75)
    assert found == {
        **{"act": 3.0, "render": 6.0, "step": 2.0, "store": 1.5, "sample": 2.5, "copy": 1.25, "update": 7.0},
        **{"log": 0.0, "pictures": 0.5},
    }


def test_nothing_is_less_than_nothing():
    """Where storing and sampling are not within ``replay``, and where nobody acts."""
    found = loop.named({"sample": 2.0, "update": 1.0}, 0.0)
    assert found["copy"] == found["act"] == found["render"] == 0
    assert found.keys() == PARTS


def test_calls_of_one_object_are_timed_and_answered():
    stopwatch, one, other = Stopwatch(), [3, 1, 2], [1]

    class Box:
        def __init__(self, content):
            self.content = content

        def most(self, default):
            return max(self.content, default=default)

    mine, foreign = Box(one), Box(other)
    loop.timed_by(stopwatch, "most", mine, "most")
    assert (mine.most(0), foreign.most(0), mine.most(default=0)) == (3, 1, 3)
    assert list(stopwatch.seconds) == ["most"]
    assert "most" not in vars(foreign)


def test_a_table_holds_all_of_the_time():
    result = {"seconds": 2.0, "updates": 4, "parts": {"act": 0.5, "update": 1.0, "log": 0.0}}
    rows = [line.split() for line in loop.table(result).splitlines()[1:]]
    assert [row[0] for row in rows] == ["update", "act", "log", "other", "total"]
    assert [float(row[1]) for row in rows] == [250, 125, 0, 125, 500]
    assert [float(row[2]) for row in rows] == [50, 25, 0, 25, 100]


@pytest.mark.parametrize("words", [[], ["experiment=tdmpc2"], ["env.num_envs=2", "train_ratio=1"]])
def test_a_shortened_run_still_pays_for_its_updates(words):
    cfg = loop.shortened(load_config(words), 20)
    decision = cfg.env.get("action_repeat", 1)
    earning = (cfg.frames - cfg.prefill) // decision
    due = int(earning * cfg.train_ratio / (cfg.data.batch_size * cfg.data.length))
    assert due > 20 + loop.WARM_UP
    assert cfg.prefill_updates == 0
    assert cfg.prefill // decision >= cfg.data.length  # a window


def test_only_what_shows_pixels_is_drawn():
    assert loop.drawing(load_config(["env.obs=state"])) == 0
    assert loop.drawing(load_config(["env=counter", "env.obs=pixels"])) == 0  # it has no other self


def test_drawing_is_what_steps_without_it_save(monkeypatch):
    asked = []
    monkeypatch.setattr(
        loop, "step_milliseconds", lambda env, *_: asked.append(env["obs"]) or (8.0, 2.0)[len(asked) - 1]
    )
    assert loop.drawing(load_config([])) == 0.75
    assert asked == ["pixels", "state"]


@pytest.mark.process
@pytest.mark.parametrize("more", [[], ["planner=actor_critic", "data.context=burn_in"]])
def test_a_training_is_broken_into_its_parts(tmp_path, more):
    to, threads = tmp_path / "loop.json", torch.get_num_threads()
    words = [word for word in TINY if not (more and word.startswith("planner."))]
    try:
        loop.measure(["env=counter", "env.num_envs=2", *words, *more], repeats=12, to=str(to))
    finally:
        torch.set_num_threads(threads)
    result = json.loads(to.read_text())
    assert result["parts"].keys() == PARTS
    assert all(result["parts"][name] > 0 for name in PARTS - {"render"})
    assert 0.5 < sum(result["shares"].values()) <= 1
    assert result["parts"][result["bottleneck"]] == max(result["parts"].values())
    assert result["updates"] == 12
    assert result["frames_per_second"] > 0
