"""Environments of every kind train a thousand frames and are evaluated, through the scripts' own code."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from toy_runs import script

pytestmark = [pytest.mark.process, pytest.mark.learns]

SMALL = (
    "size=xxs",
    "env.num_envs=1",
    "frames=1000",
    "prefill=500",
    "train_ratio=8",
    "data.batch_size=4",
    "data.length=8",
    "planner=random",
    "evaluation.episodes=1",
    "evaluation.max_steps=60",
    "evaluation.context=1",
    "evaluation.imag_horizon=1",
    "trainer.threads=1",
)
KINDS = {
    "FrozenLake": ("env=gym", "env.id=FrozenLake-v1", "planner=actor_critic", "planner.imag_horizon=3"),
    "Blackjack": (
        "env=gym",
        "env.id=Blackjack-v1",
        "data.length=2",
        "evaluation.imag_horizon=1",
        "evaluation.context=1",
    ),
    "DoorKey": ("env=minigrid", "env.size=32", "env.max_episode_steps=60"),
    "POPGym": ("env=popgym", "dynamics=ssm"),
    "Pong": ("env=atari", "env.size=32", "frames=4000", "prefill=2000"),
    "choices": ("env=gym", "env.id=two_cameras:Buttons-v0", "planner=actor_critic", "planner.imag_horizon=3"),
    "two cameras": ("env=gym", "env.id=two_cameras:Robot-v0", "env.obs=both", "env.size=16"),
}
NEEDED = {"DoorKey": "minigrid", "POPGym": "popgym", "Pong": "ale_py"}


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_a_thousand_frames_and_is_scored(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDMODELS_TRUST", "two_cameras")
    package = NEEDED.get(kind)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install '.[environments]'")
    script("train")([*SMALL, *KINDS[kind], f"run_dir={tmp_path / 'run'}"])
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert scores["frames"] >= 1000
    assert np.isfinite(scores["return_mean"])
    assert scores["baselines"].keys() >= {"random", "untrained"}
    if kind == "two cameras":
        for camera in ("", "_wrist"):
            errors = json.loads((tmp_path / "run" / f"imagine{camera}.json").read_text())
            assert len(errors["model_error"]) == 1
            assert (tmp_path / "run" / f"imagine{camera}.gif").exists()
