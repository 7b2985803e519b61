"""What a user's mistake leads to: one sentence, exit status 1, nothing lost."""

from __future__ import annotations

import errno
import importlib
import itertools
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from places import ROOT
from tensorboard.summary.writer.record_writer import RecordWriter
from toy_runs import ENV, REST, WORDS

from worldmodels.commands import console
from worldmodels.common.version import code_version
from worldmodels.config import load_config
from worldmodels.config.aliases import MOVED, modernized
from worldmodels.data.replay import Replay
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.evaluation.report import evaluate_finished_run
from worldmodels.runs.edit import override, require_learned
from worldmodels.runs.folders import AVERAGE, read_checkpoint, read_config, save_config, versions
from worldmodels.runs.loading import load_run
from worldmodels.training.datasets import rows_kept
from worldmodels.training.logs import MetricsCsv
from worldmodels.training.run import planner_config, resumed_config

# Words on the command line -------------------------------------------------------------------------------------------

DMC = ("env=dmc", *REST)
WRONG = {
    "planner=mpi": "planner=mpi is not one of actor_critic, cem, .*, random, tdmpc, .*\. Did you mean 'mppi'?",
    "dynamics=rsm": "dynamics=rsm is not one of .*rssm.* Did you mean 'rssm'?",
    "env=dcm": "env=dcm is not one of .* Did you mean 'dmc'?",
    "env.tsk=walker_walk": "there is no key 'env.tsk'.* Did you mean 'env.task'?",
    "frmes=100": "there is no key 'frmes'.* Did you mean 'frames'?",
    "frames": "'frames' is not of the form key=value. Did you mean frames=…?",
    "frames=many": "frames=many must be a whole number of at least 1",
    "trainer.compile=perhaps": "trainer.compile=perhaps must be one of auto, cell, whole, off",
    "planner.keep_elites=0.1": "there is no key 'planner.keep_elites'",
    "env.task=cheeta_run": "Did you mean 'cheetah_run'?",
    "env.camera=fixd": "camera.*'fixed'",
    "latent=gausian": "not one of categorical, gaussian, simnorm.* Did you mean 'gaussian'?",
    "env.size=33": "env.size=33 must be .* a positive multiple of 16",
    "env.obs=pixel": "env.obs=pixel must be one of .* Did you mean 'pixels'?",
    "env.num_envs=0": "env.num_envs=0 must be a whole number of at least 1",
    "planner.num_elites=1000": "planner.num_elites=1000 must be at most num_samples=8",
    "dynamics.posterior=filtre": "Did you mean 'filter'?",
    "data.context=latnt": "Did you mean 'latent'?",
    "data.capacity=4000000000": "more than `data.limit_gib=16`",
    "optimizer.param_groups={nonsense: {lr: 0.1}}": "optimizer.param_groups names 'nonsense'",
    "optimizer.param_groups=1e-4": "optimizer.param_groups=0.0001 must be a mapping",
    "planner.num_samples=64.5": "planner.num_samples=64.5 must be a whole number",
    "env.num_envs=1.5": "env.num_envs=1.5 must be a whole number",
    "data.batch_size=0": "data.batch_size=0 must be a whole number of at least 1",
    "trainer.video_every=0": "trainer.video_every=0 must be a whole number of at least 1",
    "trainer.threads=many": "trainer.threads=many must be a whole number of at least 1",
    "trainer.precision=16": "trainer.precision=16 must be one of fp32, bf16",
    "data.context=5": "data.context=5 must be one of auto, none, burn_in, latent",
    "evaluation.futures=0": "evaluation.futures=0 must be a whole number of at least 1",
    "seed=-1": "seed=-1 must be a whole number from 0",
    "optimizer.lr=-1": "optimizer.lr=-1 must be a number of at least 0",
    "optimizer.ema_decay=1": "optimizer.ema_decay=1 must be a number in .0, 1.",
    "trainer.accelerator=tpus": "trainer.accelerator=tpus must be one of auto, cpu, gpu",
    "trainer.precision=fp16": "trainer.precision=fp16 must be one of fp32, bf16. Did you mean",
    "prefill=120": "frames=120 with prefill=120 .*pays for no update",
    "size.blocks=5": "dynamics.core.blocks=5 must divide a memory of 32 numbers",
    "data.capacity=10": "data.capacity=10 keeps 5 rows of each environment, too few for windows of 8",
    "data.length=100": r"frames=120 keeps \d+ rows of each environment, too few for windows of \d+: raise frames or",
    "evaluation.seed=-1": "evaluation.seed=-1 must be a whole number from 0",
}
NEEDS_DMC = ("env.tsk", "env.task", "env.camera")


@pytest.mark.process
@pytest.mark.parametrize("word", WRONG)
def test_wrong_words_are_refused_and_leave_no_folder(said, tmp_path, word):
    """Each refusal says what to do instead, and the run's folder is never made."""
    words = [*DMC, "env.obs=state"] if word.startswith(NEEDS_DMC) else WORDS
    if word.startswith("env.camera"):
        words = [*DMC]
    message = said.refusal("train", *words, f"run_dir={tmp_path / 'run'}", word)
    assert_matches(message, WRONG[word])
    assert not (tmp_path / "run").exists()


def assert_matches(message: str, pattern: str) -> None:
    assert re.search(pattern, message), message
    assert "Traceback" not in message


@pytest.mark.process
def test_a_machine_that_cannot_draw_is_told_what_to_install(said, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmasa")
    message = said.refusal("train", *DMC, f"run_dir={tmp_path / 'run'}")
    assert_matches(message, "MUJOCO_GL=osmasa.* Did you mean 'osmesa'?")
    assert not (tmp_path / "run").exists()


@pytest.mark.process
def test_unknown_gymnasium_ids_are_refused_with_the_near_match(said, tmp_path):
    words = ("env=gym", "env.obs=state", *REST, f"run_dir={tmp_path / 'run'}", "env.id=Pendulm-v1")
    assert_matches(said.refusal("train", *words), "Pendulm-v1.*Pendulum")


@pytest.mark.parametrize(
    ("words", "played"),
    [((), (16, 1, 2032, 256)), (("protocol=code",), (16, 1, 2032, 256)), (("protocol=scores",), (8, 2, 3056, 512))],
)
def test_the_published_protocol_is_one_word(words, played):
    cfg = load_config(["experiment=dreamerv3", *words])
    assert (cfg.choices.optimizer, cfg.choices.latent, cfg.choices.encoder) == ("laprop", "categorical", "pooled")
    assert (cfg.env["size"], cfg.env.render.quality, cfg.evaluation.explore) == (64, "full", True)
    assert (cfg.data.batch_size, cfg.data.length, cfg.objective.reconstruction.loss_scales.pixels) == (16, 64, 1.0)
    assert (cfg.env.num_envs, cfg.env.action_repeat, cfg.prefill, cfg.train_ratio) == played


@pytest.mark.process
def test_environments_of_gymnasium_start_as_they_are_configured():
    env = load_config(["env=gym"]).env
    with VectorEnv(env, 1, 0) as envs:
        assert envs.reset()["state"].shape == (1, 3)


def test_a_group_and_keys_inside_it_come_in_any_order():
    cfg = load_config(["planner.keep_elites=0.2", "planner=cem"])
    assert cfg.planner.keep_elites == 0.2
    assert cfg.choices.planner == "cem"


def test_switches_are_true_or_false():
    cfg = load_config(["evaluation.explore=true", "data.cross_resets=false"])
    assert (cfg.evaluation.explore, cfg.data.cross_resets) == (True, False)


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["--seed=1"], "--seed=1 has dashes: write seed=1 (no dashes)"),
        (["--seed", "1"], "--seed has dashes: write seed=1 (no dashes)"),
        (["-m", "--train-ratio=16", "seed=1,2"], "--train-ratio=16 has dashes: write train_ratio=16 (no dashes)"),
        (["-frames=10"], "-frames=10 has dashes: write frames=10 (no dashes)"),
        (["--verbose", "seed=1"], "--verbose has dashes: write verbose=<value> (no dashes)"),
        (["--"], "-- has dashes: write key=<value> (no dashes)"),
        (["--env=counter"], "--env=counter has dashes: write env=counter (no dashes)"),
    ],
)
@pytest.mark.parametrize("name", ["train", "collect", "evaluate"])
def test_words_with_dashes_are_told_without_them(said, name, words, written):
    assert said.refusal(name, *words) == f"{written}; --help lists all words."


def test_whole_numbers_may_be_written_with_an_exponent():
    cfg = load_config(["frames=1e6", "train_ratio=0.5"])
    assert (cfg.frames, cfg.train_ratio) == (1_000_000, 0.5)
    assert isinstance(cfg.frames, int)


@pytest.mark.parametrize(
    ("words", "frames_per_decision", "rows"),
    [
        ([], 4, 120_000 // 4 * 11 // 10 + 4),
        (["frames=1e6", "env.num_envs=1"], 1, 1_100_001),
        (["data.capacity=500"], 4, 500),
    ],
)
def test_rows_are_kept_for_decisions_not_frames(words, frames_per_decision, rows):
    assert rows_kept(load_config(words), frames_per_decision) == rows


@pytest.mark.process
def test_scripts_say_what_they_need(said):
    assert_matches(said.refusal("evaluate"), "say which run: run=<…>; this script takes run=, model=, episodes=, seed=")
    assert_matches(
        said.refusal("imagine", "run=x", "episodes=few"), "episodes=few must be a whole number of at least 1"
    )
    assert_matches(said.refusal("collect"), "say which to")
    assert_matches(said.refusal("collect", "to=nowhere", *ENV), "planner=mppi consults a world model")
    assert_matches(
        said.refusal("collect", "to=nowhere", "planner=random", "explore=false"), "explore=false is for run="
    )
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("name", "word", "expected"),
    [
        ("evaluate", "episodes=0", "episodes=0 must be a whole number of at least 1"),
        ("imagine", "context=0", "context=0 must be a whole number of at least 1"),
        ("imagine", "imag_horizon=1000", "no held-out episode has the 1002 steps"),
        ("evaluate", "env.action_dim=3", r"made for pixels .* and 2: use the env settings it was trained with"),
        ("evaluate", "size=s", "size=s cannot change"),
        ("evaluate", "latent=categorical", "latent=categorical cannot change"),
        ("evaluate", "dynamics.hidden=99", "dynamics.hidden=99 cannot change"),
        ("collect", "env.action_dim=3", "use the env settings it was trained with"),
    ],
)
def test_a_run_is_not_used_with_what_it_was_not_trained_with(said, run_folder, tmp_path, name, word, expected):
    more = [f"to={tmp_path / 'data'}"] if name == "collect" else []
    assert_matches(said.refusal(name, f"run={run_folder}", *more, word), expected)


def test_a_group_of_a_run_is_read_at_the_size_of_the_run(run_folder):
    cfg = read_config(run_folder)
    assert override(cfg, ["dynamics=koopman"]).dynamics.core.state_dim == cfg.size.deter == 32
    larger = override(cfg, ["size=s"])
    assert override(larger, ["dynamics=koopman"]).dynamics.core.state_dim == larger.size.deter == 2048
    assert override(larger, ["dynamics=koopman"]).dynamics.latent == cfg.dynamics.latent
    other = override(larger, ["latent=simnorm"])
    assert override(other, ["dynamics=koopman"]).dynamics.latent == load_config(["size=s", "latent=simnorm"]).latent


@pytest.mark.parametrize("words", [["planner=diffusion", "denoiser=transformer"], ["denoiser=transformer"]])
def test_a_denoiser_reaches_the_planner_that_is_made_with_it(run_folder, words):
    cfg = read_config(run_folder)
    if len(words) == 1:
        cfg = override(cfg, ["planner=diffusion"])
        assert cfg.planner.learner.trajectories.net == cfg.denoiser
    found = override(cfg, [*words, "denoiser.width=64"])
    assert found.planner.learner.trajectories.net == found.denoiser
    assert (found.denoiser._target_, found.denoiser.width) == ("planners.diffusion.denoisers.TrajectoryTransformer", 64)


@pytest.mark.parametrize("word", ["steps=50", "prediction=epsilon"])
def test_what_a_denoiser_was_trained_with_stays(run_folder, word):
    before = override(read_config(run_folder), ["planner=diffusion"])
    require_learned(override(before, ["planner.acting.steps=5"]), before, run_folder)
    with pytest.raises(
        UserError, match=r"trajectories\.schedule cannot change: what the planner in .* learned was trained with"
    ):
        require_learned(override(before, [f"planner.learner.trajectories.schedule.{word}"]), before, run_folder)


def test_planner_config__forgets_the_recording_of_the_model(run_folder):
    """A planner on a model from a recording collects for itself unless data.dataset names a recording."""
    recorded = override(read_config(run_folder), ["data.dataset=data/maze"])
    assert recorded.data.dataset == "data/maze"
    OmegaConf.save(recorded, run_folder / "config.yaml")
    assert planner_config(run_folder, ["planner=actor_critic"]).data.dataset is None
    words = ["planner=actor_critic", "data.dataset=data/other"]
    assert planner_config(run_folder, words).data.dataset == "data/other"


def test_the_word_that_a_run_was_trained_with_keeps_its_options(run_folder):
    cfg = read_config(run_folder)
    assert override(cfg, ["planner=mppi"]) == cfg
    assert override(cfg, ["planner=mppi", "planner.num_samples=9"]).planner == {**cfg.planner, "num_samples": 9}
    assert override(cfg, ["planner=cem"]).planner.num_samples == load_config(["planner=cem"]).planner.num_samples


def test_a_path_that_cannot_be_written_is_one_sentence(said, tmp_path):
    (tmp_path / "file").write_text("")
    assert_matches(
        said.refusal("train", *WORDS, f"run_dir={tmp_path / 'file' / 'run'}"),
        "cannot be written .*choose another run_dir",
    )
    assert_matches(said.refusal("collect", *ENV, "planner=random", f"to={tmp_path / 'file'}"), "choose another")


# Run folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "key"), [("evaluate", "run"), ("imagine", "run"), ("train", "resume")])
def test_folders_that_are_no_run(said, tmp_path, name, key):
    assert_matches(said.refusal(name, f"{key}={tmp_path / 'missing'}"), "is not a folder")
    assert_matches(said.refusal(name, f"{key}={tmp_path}"), "is not a run folder: it has no config.yaml")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("seed: [", "cannot be read"),
        ("5", "cannot be read"),
        ("", "is not a run of this version: its config.yaml lacks"),
        ("- a list", "is not a run of this version"),
        ("env: {}", "is not a run of this version: its config.yaml lacks"),
        ("choices: {}", "is a run of an earlier version.* use commit fd3e02a for it"),
    ],
)
def test_a_configuration_that_is_no_runs(said, tmp_path, content, expected):
    (tmp_path / "config.yaml").write_text(content)
    for name, key in (("evaluate", "run"), ("train", "resume")):
        assert_matches(said.refusal(name, f"{key}={tmp_path}"), expected)


def test_keys_of_a_stored_run_are_called_as_they_are_now():
    stored = OmegaConf.create(
        {
            "dynamics": {"core": {"state": 8, "space": {"state": 4}}},
            "planner": {
                "judge": {"_target_": "x", "consistency": 0.5},
                "learner": {"q": {"limit": 5.0}, "pair": 3},
                "search": {"relative": False},
                "acting": {"kept": 2, "steps": 4},
            },
            "prefill_planner": {"beta": 1.0},
        }
    )
    assert modernized(stored) == {
        "dynamics": {"core": {"state_dim": 8, "space": {"state_dim": 4}}},
        "planner": {
            "scorer": {"_target_": "x", "consistency_weight": 0.5},
            "learner": {"q": {"symlog_limit": 5.0}, "num_q_sampled": 3},
            "search": {"normalize_values": False},
            "acting": {"warm_candidates": 2, "steps": 4},
        },
        "prefill_planner": {"noise_beta": 1.0},
    }


def test_a_run_whose_classes_have_moved_since_loads(run_folder):
    stored = (run_folder / "config.yaml").read_text()
    for old, new in MOVED.items():
        stored = stored.replace(f"_target_: {new}\n", f"_target_: {old}\n")
    assert "worldmodels.heads.reward.RewardHead" in stored
    (run_folder / "config.yaml").write_text(stored)
    assert load_run(run_folder).cfg.heads.reward._target_ == MOVED["worldmodels.heads.reward.RewardHead"]


def test_a_run_of_another_architecture_says_where_it_differs(run_folder):
    path = run_folder / "config.yaml"
    path.write_text(path.read_text().replace("free_nats: 1.0", "free_nats: 0.5"))
    (run_folder / "version.txt").write_text("commit abc\n")
    with pytest.raises(UserError, match=r"^dynamics is configured otherwise in .*\(commit abc\)\.$"):
        load_run(run_folder)


def test_a_stored_group_has_the_name_that_it_has_now(run_folder):
    path = run_folder / "config.yaml"
    path.write_text(path.read_text().replace("\nvisualization:\n", "\npictures:\n"))
    assert load_run(run_folder).cfg.visualization.keys() == {"plan", "diffusion"}


def test_a_key_that_came_after_a_run_has_its_default(run_folder):
    stored = OmegaConf.load(run_folder / "config.yaml")
    default = stored.pop("loggers")
    OmegaConf.save(stored, run_folder / "config.yaml")
    assert load_run(run_folder).cfg.loggers == default


def test_messages_name_the_code_that_made_a_run(said, run_folder, monkeypatch):
    """The newest, where several continued it."""
    assert versions(run_folder) == [code_version()]
    other = override(read_config(run_folder), ["dynamics.posterior=obs"])
    monkeypatch.setattr("worldmodels.runs.folders.code_version", lambda: "commit abc")
    for _ in range(2):
        save_config(other, run_folder)
    assert versions(run_folder) == [code_version(), "commit abc"]
    with pytest.raises(UserError, match=r"and the version of the code \(commit abc\)\.$"):
        load_run(run_folder)
    (run_folder / "config.yaml").write_text("env: {}")
    with pytest.raises(UserError, match=r"use the version that made it \(commit abc\)\.$"):
        read_config(run_folder)
    (run_folder / "version.txt").unlink()
    with pytest.raises(UserError, match=r"use the version that made it\.$"):
        read_config(run_folder)


def test_a_resumed_run_may_wait_longer_for_its_workers(run_folder):
    assert resumed_config(run_folder, ["env.step_timeout=300"]).env.step_timeout == 300


def test_a_prefill_does_not_begin_again(said, run_folder):
    message = said.refusal("train", f"resume={run_folder}", "frames=400", "prefill=300")
    assert_matches(message, "prefill=300 cannot begin again after 30 updates and 120 frames")


@pytest.mark.process
def test_evaluate_finished_run__passes_over_too_short_episodes(run_folder, caplog):
    """If no held-out episode is long enough to imagine, the log says so and the other results are still written."""
    for name in ("imagine.json", "returns.png"):
        (run_folder / name).unlink()
    run = load_run(run_folder)
    run.cfg.evaluation.imag_horizon, run.cfg.evaluation.episodes = 1000, 1
    evaluate_finished_run(run, run.cfg)
    assert (
        "imagination was not scored, imagine.* are missing or older: no held-out episode has the 1002 steps"
        in caplog.text
    )
    assert (run_folder / "returns.png").exists()
    assert not (run_folder / "imagine.json").exists()


def test_a_folder_in_use_is_not_trained_in(said, run_folder, tmp_path):
    before = (run_folder / "checkpoints" / "last.ckpt").read_bytes()
    message = said.refusal("train", *WORDS, f"run_dir={run_folder}")
    assert_matches(message, f"{run_folder} holds a run already: continue it with resume={run_folder}")
    assert (run_folder / "checkpoints" / "last.ckpt").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    assert_matches(said.refusal("train", *WORDS, f"run_dir={tmp_path / 'mine'}"), "is not empty")
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize("word", ["size=s", "dynamics.posterior=obs", "env.lengths=[4]", "optimizer=laprop"])
def test_resuming_with_other_parts_is_refused(said, run_folder, word):
    before = (run_folder / "config.yaml").read_text()
    assert_matches(said.refusal("train", f"resume={run_folder}", word), "when resuming.*start a new run")
    assert (run_folder / "config.yaml").read_text() == before


def test_resume__names_the_command_that_trains_another_planner(said, run_folder):
    """Resuming with a planner that was not learned is refused with the command that trains it on the run's model."""
    message = said.refusal("train", f"resume={run_folder}", "planner=actor_critic")
    assert f"train them with `python scripts/train.py world_model={run_folder} planner=actor_critic`" in message


def test_words_that_a_run_does_not_know(said, run_folder):
    assert_matches(said.refusal("train", f"resume={run_folder}", "frmes=300"), "no key 'frmes'. Did you mean 'frames'?")
    assert_matches(said.refusal("train", f"resume={run_folder}", "frames=lots"), "frames=lots must be a whole number")
    assert_matches(said.refusal("evaluate", f"run={run_folder}", "planner=ceem"), "Did you mean 'cem'?")
    assert_matches(
        said.refusal("evaluate", f"run={run_folder}", "planner.elites=3"), "Did you mean 'planner.num_elites'?"
    )


@pytest.mark.process
def test_a_checkpoint_of_another_architecture(said, run_folder):
    other = override(read_config(run_folder), ["dynamics.posterior=obs"])
    OmegaConf.save(other, run_folder / "config.yaml")
    for name, key in (("evaluate", "run"), ("imagine", "run"), ("train", "resume")):
        assert_matches(said.refusal(name, f"{key}={run_folder}"), "was made by another architecture: .* weights differ")
    assert read_checkpoint(run_folder)["counters"]["updates"] == 30


def tear(file: Path) -> None:
    os.truncate(file, file.stat().st_size * 2 // 3)


def test_torn_last_checkpoint__the_one_before_is_used(said, unscored, run_folder, caplog):
    """The log says so, and the whole one is kept when training goes on; two torn ones are refused."""
    folder = run_folder / "checkpoints"
    shutil.copy(folder / "last.ckpt", folder / "previous.ckpt")
    tear(folder / "last.ckpt")
    checkpoint = read_checkpoint(run_folder)
    assert checkpoint["file"] == str(folder / "previous.ckpt")
    assert "last.ckpt cannot be read" in caplog.text
    status, error = said.exit("train", f"resume={run_folder}", "frames=124")
    assert (status, error) == (0, "")
    for name, updates in (("last.ckpt", 32), ("previous.ckpt", 30)):  # the torn one does not take the whole one's place
        assert torch.load(folder / name, weights_only=True)["counters"]["updates"] == updates
    for name in ("last.ckpt", "previous.ckpt"):
        tear(folder / name)
    for script, key in (("evaluate", "run"), ("train", "resume")):
        message = said.refusal(script, f"{key}={run_folder}")
        assert_matches(message, "has no checkpoint that can be read whole")


def test_a_truncated_replay_is_used_as_far_as_it_goes(said, unscored, run_folder, caplog):
    tear(run_folder / "replay" / "pixels.memmap")
    status, error = said.exit("train", f"resume={run_folder}", "frames=130")
    assert (status, error) == (0, "")
    assert "pixels.memmap was cut short" in caplog.text
    assert "whole rows that are left of" in caplog.text
    assert read_checkpoint(run_folder)["counters"]["frames"] >= 130


# Disks ---------------------------------------------------------------------------------------------------------------


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.process
def test_a_disk_too_full_for_the_replay(said, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    message = said.refusal("train", *WORDS, f"run_dir={tmp_path / 'run'}")
    assert_matches(message, "The replay needs .* no place for .No space left on device.: free some space")
    assert not (tmp_path / "run").exists()


@pytest.mark.process
def test_a_disk_too_full_for_a_checkpoint_keeps_the_one_before(said, unscored, run_folder, monkeypatch):
    before = (run_folder / "checkpoints" / "last.ckpt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        message = said.refusal("train", f"resume={run_folder}", "frames=124")
    assert_matches(message, f"could not be written .No space left on device.*resume={run_folder}")
    assert (run_folder / "checkpoints" / "last.ckpt").read_bytes() == before
    assert not list((run_folder / "checkpoints").glob("writing*"))
    assert said.exit("train", f"resume={run_folder}", "frames=124") == (0, "")


# Environments that fail in mid-training ------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize(
    ("how", "after", "sentence"),
    [
        ("nan", 40, r"worker 1 \(Sabotaged, pid \d+\) failed: Sabotaged returned nan in its observation 'state'"),
        ("exit", 40, r"worker 1 \(Sabotaged, pid \d+\) died with exit code 7"),
        ("exit", 20, r"worker 1 \(Sabotaged, pid \d+\) died with exit code 7"),
        ("hang", 40, r"worker 1 \(Sabotaged, pid \d+\) did not answer within 2 s"),
    ],
)
def test_failing_environment_is_named_and_nothing_is_lost(said, unscored, tmp_path, how, after, sentence):
    """Every row recorded before the failure is kept, and the resumed run trains to its end."""
    flag, folder = tmp_path / "flag", tmp_path / "run"
    flag.write_text(how)
    words = ("env._target_=sabotage.Sabotaged", f"+env.file={flag}", f"+env.after={after}", "env.step_timeout=2")
    words += ("trainer.video_every=1000",)
    assert_matches(said.refusal("train", *WORDS, *words, f"run_dir={folder}"), sentence)
    before = read_checkpoint(folder)
    assert (before["counters"]["updates"] > 0) == (after == 40), "fails after the prefill, or in it"
    rows = Replay.open(folder / "replay")
    # Every step that was given to an environment but the one that failed, and every reset, is a row of each.
    assert len(rows) == before["OnlineData"]["replay"]["rows"] == 2 * (after + 1 + resets(rows))
    count = len(rows)
    del rows
    flag.unlink()
    assert said.exit("train", f"resume={folder}") == (0, "")
    after_all = read_checkpoint(folder)["counters"]
    assert after_all["updates"] == 30
    assert after_all["decisions"] > before["counters"]["decisions"]
    full = Replay.open(folder / "replay").layout.rows
    assert len(Replay.open(folder / "replay")) in (full, min(full, count + 2))


def resets(replay: Replay) -> int:
    """Episodes that environment 1 has begun after its first."""
    rows = replay.sample(64, len(replay) // 2)
    return next(
        int(first[1:].sum()) for state, first in zip(rows["state"], rows["is_first"], strict=True) if state[0, 0]
    )


@pytest.mark.process
def test_a_plan_that_is_not_finite_ends_in_one_sentence(said, run_folder):
    checkpoint = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    for key, value in checkpoint["state_dict"].items():
        if key.startswith(AVERAGE + "model.dynamics"):
            value.fill_(torch.nan)
    torch.save(checkpoint, run_folder / "checkpoints" / "last.ckpt")
    assert_matches(
        said.refusal("evaluate", f"run={run_folder}", "episodes=1"), "return that is not finite.*optimizer.lr"
    )


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["dynamics=transformer", "dynamics.core.heads=5"],
            "dynamics.core.heads=5 must divide 16 channels",
        ),
        (
            ["dynamics=transformer", "dynamics.core.heads=16"],
            "dynamics.core.heads=16 must divide 16 channels into heads of even",
        ),
        (["dynamics=transformer", "dynamics.core.window=7"], "data.length=8 is longer than the 7 steps.*core.window"),
        (
            ["dynamics=transformer", "dynamics.core.window=8", "evaluation.imag_horizon=9"],
            "evaluation.imag_horizon=9 is longer than the 8 steps that dynamics=transformer can see or imagine",
        ),
        (
            ["dynamics=transformer", "dynamics.core.window=8", "planner.plan_horizon=9"],
            "planner.plan_horizon=9 is longer than the 8 steps",
        ),
        (
            ["dynamics=mamba", "dynamics.core.decay_range=[2,1]"],
            r"dynamics.core.decay_range=\[2, 1\] must be a list \[a number above 0\] of 2, ascending",
        ),
        (["dynamics=mamba", "dynamics.core.head_dim=7"], "dynamics.core.head_dim=7 must divide the 32 channels"),
        (["dynamics=implicit", "dynamics.simplex=7"], "dynamics.simplex=7 must divide a latent of 32 numbers"),
        (["dynamics=implicit", "dynamics.unroll=0"], "dynamics.unroll=0 must be a whole number of at least 1"),
        (
            ["dynamics=koopman", "dynamics.posterior=filtr"],
            "posterior=filtr must be .* obs. Did you mean 'filter'",
        ),
        (["dynamics=mambo"], "dynamics=mambo is not one of .*Did you mean 'mamba'"),
    ],
    ids=lambda x: x[-1] if isinstance(x, list) else "",
)
def test_unbuildable_backbone_is_refused_beforehand(said, tmp_path, words, sentence):
    """The refusal says which option does not fit, and the run's folder is never made."""
    assert_matches(said.refusal("train", *WORDS, *words, f"run_dir={tmp_path / 'run'}"), sentence)
    assert not (tmp_path / "run").exists()


def test_errors_of_our_own_are_not_hidden(said, monkeypatch):
    def broken(words):
        raise KeyError("a bug")

    monkeypatch.setattr("worldmodels.training.run.train", broken)
    with pytest.raises(KeyError):
        said.exit("train")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EROFS])
def test_a_path_that_is_wrong_is_a_mistake_wherever_it_is_used(said, monkeypatch, number):
    def broken(words):
        raise OSError(number, os.strerror(number), "/proc/x")

    monkeypatch.setattr("worldmodels.training.run.train", broken)
    expected = f"/proc/x cannot be read or written ({os.strerror(number)}): choose another path."
    assert said.refusal("train") == expected


def test_user_errors_pass_through_nested_construction():
    from worldmodels.factory import construct

    cfg = load_config(["planner.num_elites=1000"])
    with pytest.raises(UserError, match="num_elites=1000"):
        construct(cfg.planner, action_dim=2, discrete=False)


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_lists_and_runs_its_verbs(monkeypatch, capsys):
    for words, status, out, error in (
        ([], 0, "train      Train a world model and a planner", ""),
        (["--help"], 0, "doctor     Say whether this machine can train", ""),
        (["trian"], 1, "", "Did you mean 'train'?"),
        (["evaluate"], 1, "", "say which run"),
        (["evaluate", "--help"], 0, "Score a trained run", ""),
    ):
        monkeypatch.setattr(sys, "argv", ["worldmodels", *words])
        with pytest.raises(SystemExit) as caught:
            console.console()
        told = capsys.readouterr()
        assert caught.value.code == status
        assert out in told.out
        assert error in told.err


def test_every_script_is_a_command():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert scripts == set(console.COMMANDS)
    modules = {path.stem for path in (ROOT / "worldmodels" / "commands").glob("[!_]*.py")}
    assert scripts == modules - {"console"}


def full_after(calls: int, method):
    """A method that finds the disk full after so many calls."""
    made = itertools.count()
    return lambda *args, **kwargs: no_space() if next(made) >= calls else method(*args, **kwargs)


@pytest.mark.process
@pytest.mark.parametrize(("kind", "name"), [(MetricsCsv, "save"), (RecordWriter, "write")])
def test_a_disk_too_full_for_a_log_saves_what_was_learned(said, unscored, run_folder, monkeypatch, kind, name):
    """In one sentence, without a traceback of TensorBoard's thread."""
    with monkeypatch.context() as patch:
        patch.setattr(kind, name, full_after(5, getattr(kind, name)))
        message = said.refusal("train", f"resume={run_folder}", "frames=180", "trainer.log_every=1")
    assert_matches(message, f"No space left on device.: free some space; what was learned .* resume={run_folder}")
    assert read_checkpoint(run_folder)["counters"]["updates"] > 30
    assert said.exit("train", f"resume={run_folder}", "frames=180") == (0, "")


@pytest.mark.process
def test_a_disk_full_before_any_checkpoint_says_to_start_again(said, unscored, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        message = said.refusal("train", *WORDS, f"run_dir={tmp_path / 'run'}")
    assert_matches(message, "there is none before it: free some space and start again")


def forbidden(self, *_, **__):
    raise PermissionError(errno.EACCES, "Permission denied", str(self))


def forbid(monkeypatch, folder: Path) -> None:
    """Let nothing be written into a folder, for whoever may write everywhere too."""
    write = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: forbidden(dir) if dir == folder else write(dir=dir))


@pytest.mark.process
def test_a_run_that_cannot_be_written_is_told_before_it_plays(said, run_folder, tmp_path, monkeypatch):
    forbid(monkeypatch, run_folder)
    monkeypatch.setattr("worldmodels.evaluation.report.play_held_out", lambda *_, **__: pytest.fail("it plays"))
    for name in ("evaluate", "imagine"):
        message = said.refusal(name, f"run={run_folder}")
        assert_matches(message, "cannot be written .Permission denied.: say another folder with to=")
    there = tmp_path / "there"
    forbid(monkeypatch, there)
    for name, words in (
        ("compare", (f"runs={run_folder}",)),
        ("sweep", (f"run={run_folder}", "over=planner.temperature", "values=1")),
        ("benchmark", ()),
    ):
        to = there / "x.json" if name == "benchmark" else there
        assert_matches(said.refusal(name, *words, f"to={to}"), "there cannot be written .Permission denied")


@pytest.mark.process
def test_a_recording_without_permission_does_not_ask_for_space(said, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: forbidden("x"))
    message = said.refusal("collect", *ENV, "planner=random", f"to={tmp_path / 'data'}")
    assert_matches(message, "cannot be made for .Permission denied.: choose a folder that you may write")


@pytest.mark.process
def test_scores_and_clips_go_where_to_says(said, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodels.evaluation.report.baselines", lambda *_: {"random": 0.0})
    before = {path.name: path.stat().st_mtime_ns for path in run_folder.iterdir()}
    for name, file in (("evaluate", "evaluation.json"), ("imagine", "imagine.json")):
        to = tmp_path / "a=b (é)" / name
        assert said.exit(name, f"run={run_folder}", "episodes=2", f"to={to}") == (0, "")
        assert (to / file).is_file()
    assert before == {path.name: path.stat().st_mtime_ns for path in run_folder.iterdir()}


@pytest.mark.parametrize("name", console.COMMANDS)
def test_every_command_lists_its_words(monkeypatch, capsys, name):
    module = importlib.import_module(f"worldmodels.commands.{name}")
    monkeypatch.setattr(sys, "argv", ["worldmodels", name, "--help"])
    with pytest.raises(SystemExit):
        console.console()
    told = capsys.readouterr().out.splitlines()
    for key, word in module.WORDS.items():
        assert sum(line.startswith(f"  {key}=") and line.endswith(word.help) for line in told) == 1, key
    assert module.WORDS or "It takes no words." in told


def test_words_of_a_command_that_takes_none_are_refused(said):
    assert_matches(said.refusal("doctor", "seed=1"), "doctor.py takes no words, and 'seed=1' is one")
