"""A part of one's own is one file and one yaml: each kind, from outside the packages, without touching them."""

from __future__ import annotations

from dataclasses import replace
from textwrap import dedent

import numpy as np
import pytest
import torch
from model_cases import ACTION, STATE, batch, model, with_reset
from omegaconf import OmegaConf
from planner_cases import options, seeded
from toy_runs import REST

from worldmodels.common.files import read_rows
from worldmodels.common.trust import VARIABLE
from worldmodels.config import load_config
from worldmodels.data.replay import Replay
from worldmodels.errors import UserError
from worldmodels.factory import build_planner
from worldmodels.runs.loading import load_run
from worldmodels.training.run import train

YAML = {
    "dynamics/total": """
        defaults: [_latent, _self_]
        posterior: filter
        core: {_target_: outside.Total, _partial_: true}
    """,
    "heads/speed": """
        defaults: [arrival, _self_]
        speed: {_target_: outside.SpeedHead, units: 8, loss_scales: {speed: 0.5}}
    """,
    "objective/small": """
        defaults: [probe, _self_]
        small: {_target_: outside.Small, loss_scales: {small: 0.1}}
    """,
    "loggers/told": """
        defaults: [default, _self_]
        told: {_target_: outside.TextLogger}
    """,
    "planner/alternating": "_target_: outside.Alternating",
    "readers/text": """
        defaults: [default, _self_]
        text: {_target_: outside.TextReader}
    """,
    "visualization/name": """
        defaults: [default, _self_]
        name: {_target_: outside.write_name}
    """,
}
WORDS = [name.replace("/", "=") for name in YAML]
SMALL = [word for word in REST if not word.startswith("planner.")]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of somebody's own yaml files, which name a module that is trusted and, in the end, is not any more."""
    monkeypatch.setenv(VARIABLE, "outside")
    for name, text in YAML.items():
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).strip() + "\n")
    return tmp_path / "configs"


def test_one_of_each_kind_is_chosen_by_a_word(own):
    cfg = load_config(WORDS, config_dir=own)
    assert cfg.choices.dynamics == "total"
    assert cfg.heads.keys() == {"reward", "cont", "speed"}
    assert cfg.objective.keys() == {"probe", "small"}
    assert "text" in cfg.readers
    assert "name" in cfg.visualization
    assert "told" in cfg.loggers


def test_a_module_of_ones_own_is_named_when_it_is_trusted(own, monkeypatch, said):
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(UserError, match=r"planner._target_=outside.Alternating .* trust=\[outside\]") as refused:
        load_config(["planner=alternating"], config_dir=own)
    assert refused.value.value == "outside.Alternating"
    assert "outside" not in refused.value.allowed
    words = (f"--config-dir={own}", "planner=alternating", "frames=x")
    assert "trust=[outside]" in said.refusal("train", *words)
    assert "frames=x" in said.refusal("train", *words, "trust=[outside]")
    monkeypatch.delenv(VARIABLE)
    assert load_config(WORDS, config_dir=own, trust=["outside"]).planner._target_ == "outside.Alternating"
    assert "trust" not in " ".join(load_config(WORDS, config_dir=own).words)


@pytest.mark.parametrize("name", ["torch.load", "F.pad", "np.loadtxt", "Path.touch"])
def test_what_a_trusted_module_imports_is_not_trusted(name, own):
    with pytest.raises(UserError, match=rf"outside.{name} is .*, which is no part"):
        load_config(["planner=alternating", f"planner._target_=outside.{name}"], config_dir=own)


@pytest.mark.process
def test_parts_of_ones_own_train_and_score(own, tmp_path):
    """A backbone, a head, an objective, a planner, a picture and a logger, in one training and its run loaded again."""
    words = [word for word in WORDS if not word.startswith("readers")]
    folder = tmp_path / "run"
    env = ["env=counter", "env.num_envs=2", "env.obs=state"]
    train([f"hydra.searchpath=['file://{own}']", *env, *SMALL, *words, "trainer.loggers=[told]", f"run_dir={folder}"])
    assert (folder / "name.txt").read_text() == "alternating 1000"
    run = load_run(folder)
    imagined = run.model.imagine(run.model.initial(2), torch.zeros(2, 3, run.action_dim), 3)
    assert imagined.extra["speed"].shape == (2, 3)
    names = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"loss/speed", "loss/small", "loss/dyn"} <= set(names)
    *curves, words, scores = (folder / "told.txt").read_text().splitlines()
    steps = [int(line.partition(" ")[0]) for line in curves if "loss/speed" in line]
    assert steps == [int(row["frames"]) for row in read_rows(folder / "metrics.csv") if row["loss/speed"]]
    assert {"dynamics=total", "planner=alternating", "seed=0"} <= set(words.split())
    assert scores.startswith("120 evaluation/baseline_")
    assert not list(folder.glob("events.*"))


@pytest.mark.process
def test_a_format_of_ones_own_is_learned_from(own, tmp_path, unscored):
    rows = np.random.default_rng(0).uniform(-1, 1, (40, 4)).astype(np.float32)  # two numbers, an action, a reward
    np.savetxt(tmp_path / "a.txt", rows)
    words = [f"hydra.searchpath=['file://{own}']", "env=linear_gaussian", "env.num_envs=1", *SMALL]
    words += ["readers=text", f"data={tmp_path / 'a.txt'}", "planner=cloning", "updates=2"]
    folder = train([*words, f"run_dir={tmp_path / 'run'}"])
    replay = Replay.open(folder / "replay")
    assert len(replay) == 40
    torch.testing.assert_close(replay.all_windows(40)["state"][0], torch.from_numpy(rows[:, :2]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["mppi", "cem", "gradient", "actor_critic", "diffusion", "mppi_actor_critic"])
def test_a_bonus_enters_wherever_imagined_rewards_are_counted(name):
    """One field of the planner: what its plans, its learning and its scorer count."""
    torch.manual_seed(0)
    world = model("latent=gaussian", observations=STATE)
    planner = build_planner(OmegaConf.create(options(name)), ACTION, False, world.dynamics.feature_spec)
    seen = []

    def bonus(trajectory):
        seen.append(trajectory.reward.shape)
        return replace(trajectory, reward=trajectory.action[..., 0], cont=torch.ones_like(trajectory.cont))

    planner.shaping = bonus
    rows = with_reset(batch(2, planner.min_window + 2, observations=STATE))
    rollout, _, _ = world.observe(rows, world.initial(2))
    state = world.dynamics.starts(rollout)
    if name == "actor_critic":
        world.train()
        planner.loss(world, rollout, rows)
    else:
        n = len(state.feat)
        action, _ = planner.act(world, state, planner.initial(n), torch.zeros(n, dtype=torch.bool), False, seeded())
        if name in ("mppi", "cem", "gradient"):
            assert action[:, 0].mean() > 0.5
    assert seen
