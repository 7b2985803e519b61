"""The scripts as people run them: what they leave behind, how they are interrupted, how quiet they are."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from toy_runs import ENV, REST, UPDATES, WORDS, script, spawn

from worldmodels.common.files import read_rows
from worldmodels.common.video import KINDS
from worldmodels.config import load_config
from worldmodels.data.replay import Replay
from worldmodels.errors import UserError
from worldmodels.runs.folders import read_checkpoint
from worldmodels.training.loggers import build_loggers, log_scores, show_clip, show_figure
from worldmodels.training.logs import MetricsCsv
from worldmodels.training.run import train

pytestmark = pytest.mark.process

# What a training leaves behind ---------------------------------------------------------------------------------------


def video_of(folder: Path) -> Path:
    """The one video in a folder."""
    (file,) = [file for file in folder.glob("evaluation.*") if file.suffix in KINDS]
    return file


def test_a_run_folder_holds_what_people_script_against(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert any(name.startswith("events.out.tfevents.") for name in names)
    assert "hparams.yaml" not in names
    assert names >= {
        "config.yaml",
        "checkpoints",
        "metrics.csv",
        "replay",
        "evaluation.json",
        "imagine.json",
        "imagine.gif",
        "imagine.png",
        "imagine_errors.png",
        "timing.json",
        "version.txt",
    }
    result = json.loads((finished_run / "evaluation.json").read_text())
    assert result.keys() >= {
        "return_mean",
        "return_std",
        "return_stochastic_mean",
        "episodes",
        "planner",
        "frames",
        "seed",
    }
    assert result["baselines"].keys() == {"random", "prefill", "zero", "plus_one", "minus_one", "untrained"}
    assert (result["episodes"], result["planner"], result["frames"], result["seed"]) == (2, "mppi", 120, 0)
    # Counter episodes of 5 and 3 steps: 1 + 2 + ... and half of every action's first entry.
    assert result["baselines"]["zero"] == (15 + 6) / 2
    assert result["baselines"]["plus_one"] == (17.5 + 7.5) / 2
    assert result["baselines"]["minus_one"] == (12.5 + 4.5) / 2
    errors = json.loads((finished_run / "imagine.json").read_text())
    assert errors["steps"] == [1, 2, 3]
    for key in ("model_error", "last_frame_error", "blend_error", "shuffled_action_error"):
        assert len(errors[key]) == 3
        assert all(error >= 0 for error in errors[key])
    assert all(b <= last + 1e-9 for b, last in zip(errors["blend_error"], errors["last_frame_error"], strict=True))
    video = cv2.VideoCapture(str(video_of(finished_run)))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 6


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def test_curves_are_drawn_against_frames_in_both_logs(finished_run):
    scalars = events(finished_run).Scalars("loss/total")
    assert len(scalars) == UPDATES
    # An update is paid for by two decisions, which come two at a time, or one where the other environment begins anew.
    assert all(60 + 2 * n <= event.step < 62 + 2 * n for n, event in enumerate(scalars, start=1))
    rows = read_rows(finished_run / "metrics.csv")
    assert [int(row["frames"]) for row in rows if row["loss/total"]] == [event.step for event in scalars]
    ended = [row for row in rows if row["episode/return"]]
    logged = events(finished_run).Scalars("episode/return")
    assert [int(row["frames"]) for row in ended] == [event.step for event in logged]
    assert [float(row["episode/return"]) for row in ended] == pytest.approx([event.value for event in logged])
    assert 0 < logged[0].step < 60 < logged[-1].step
    assert "epoch" not in rows[0]


def test_tensorboard_has_scores_beside_lines_of_baselines(finished_run):
    """The tab of hyperparameters too; what a repeated run does not repeat is not in metrics.csv."""
    seen = events(finished_run)
    result = json.loads((finished_run / "evaluation.json").read_text())
    [score] = seen.Scalars("evaluation/return")
    assert (score.step, score.value) == (120, pytest.approx(result["return_mean"]))
    for name, value in result["baselines"].items():
        line = seen.Scalars(f"evaluation/baseline_{name}")
        assert [(point.step, point.value) for point in line] == [(0, pytest.approx(value)), (120, pytest.approx(value))]
    told = seen.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    content = HParamsPluginData.FromString(told).session_start_info.hparams
    assert content["dynamics"].string_value == "rssm"
    assert content["seed"].number_value == 0
    assert "trainer.threads" not in content
    assert "custom_scalars__config__" in seen.Tags()["tensors"]
    speeds = seen.Scalars("speed/updates_per_second")
    assert len(speeds) == UPDATES - 1
    assert all(point.value > 0 for point in speeds)
    assert not any(key.startswith("speed/") for key in read_rows(finished_run / "metrics.csv")[0])


@pytest.mark.parametrize(
    ("words", "value", "said"),
    [
        (["trainer.loggers=[tensorbord]"], "tensorbord", "Did you mean 'tensorboard'"),
        (["trainer.loggers=[x]", "+loggers.x._target_=outside.needs_a_package"], "x", r"pip install .*\[loggers\]"),
    ],
)
def test_a_logger_that_cannot_be_is_refused(tmp_path, words, value, said):
    with pytest.raises(UserError, match=said) as caught:
        build_loggers(load_config(words), tmp_path, lambda: 0, 0)
    assert (caught.value.option, caught.value.value) == ("trainer.loggers", value)


@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("mlflow", "mlflow")])
def test_others_curves_have_frames_for_steps_too(tmp_path, monkeypatch, name, package):
    """A clip and a figure among them; skipped where the package is missing, as it is without the extra `loggers`."""
    pytest.importorskip(package)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "run").mkdir()
    logger, _ = build_loggers(load_config([f"trainer.loggers=[{name}]"]), tmp_path / "run", lambda: 7, 0)
    show_clip(logger, "clip", np.zeros((2, 8, 8, 3), np.uint8), 7)
    show_figure(logger, "figure", Figure(), 7)
    log_scores([logger], {"return_mean": 1.0, "return_stochastic_mean": 2.0, "baselines": {}}, {"seed": 0}, 7)
    if name == "wandb":
        assert logger.logger.experiment.summary["trainer/global_step"] == 7
        assert logger.logger.experiment.summary["evaluation/return"] == 1.0
        assert len(list((tmp_path / "run").rglob("*.gif"))) == 1
        logger.logger.experiment.finish()
    else:
        client, run = logger.logger.experiment, logger.logger.run_id
        assert [(m.step, m.value) for m in client.get_metric_history(run, "evaluation/return")] == [(7, 1.0)]
        assert {item.path for item in client.list_artifacts(run)} == {"clip", "figure"}
        again, _ = build_loggers(load_config([f"trainer.loggers=[{name}]"]), tmp_path / "run", lambda: 7, 0)
        assert again.logger.run_id == run


def test_large_numbers_of_frames_keep_every_digit(tmp_path):
    log = MetricsCsv(tmp_path / "metrics.csv", lambda: 123_456_789)
    log.log_metrics({"loss": 1.0})
    log.save()
    assert read_rows(tmp_path / "metrics.csv") == [{"frames": "123456789", "loss": "1.0"}]


def test_renamed_columns_stand_under_both_names(finished_run):
    """For one release, in metrics.csv alone."""
    rows = [row for row in read_rows(finished_run / "metrics.csv") if row["loss/total"]]
    assert len(rows) == UPDATES
    for new, old in (("grad/norm", "gradient/norm"), ("grad/norm_after_clip", "gradient/clipped")):
        assert all(float(row[new]) == float(row[old]) for row in rows)
        assert old not in events(finished_run).Tags()["scalars"]


def test_metrics_survive_a_restart_but_not_what_will_come_again(tmp_path):
    path, now = tmp_path / "metrics.csv", [0]

    def write(log: MetricsCsv, frames: int, **metrics: float) -> None:
        now[0] = frames
        log.log_metrics(metrics)
        log.save()

    log = MetricsCsv(path, lambda: now[0])
    write(log, 2, a=1.0)
    write(log, 4, b=2.0, epoch=0.0)
    write(log, 6, a=3.0)
    with path.open("a") as file:
        file.write("7,4")  # cut short by a kill
    again = MetricsCsv(path, lambda: now[0], resumed_at=4)
    write(again, 6, c=5.0)
    write(again, 8, a=6.0)
    with path.open() as file:
        assert list(csv.reader(file)) == [
            ["frames", "a", "b", "c"],
            ["2", "1.0", "", ""],
            ["4", "", "2.0", ""],
            ["6", "", "", "5.0"],
            ["8", "6.0", "", ""],
        ]
    MetricsCsv(path, lambda: 0)
    assert read_rows(path) == []


# Continuing ----------------------------------------------------------------------------------------------------------


def test_finished_run_given_more_frames_goes_on(run_folder, unscored):
    """Resumed with more frames and another planner, it trains with that planner and extends the curves it had."""
    before = read_rows(run_folder / "metrics.csv")
    train([f"resume={run_folder}", "frames=136", "planner=cem", "planner.num_samples=8", "planner.num_elites=2"])
    checkpoint = read_checkpoint(run_folder)
    assert checkpoint["counters"] == {"updates": 38, "decisions": 136, "frames": 136, "clock": 136}
    assert "planners.cem.CEM" in (run_folder / "config.yaml").read_text()
    rows = read_rows(run_folder / "metrics.csv")
    assert rows[: len(before)] == before
    assert sum(bool(row["loss/total"]) for row in rows) == 38
    steps = [event.step for event in events(run_folder).Scalars("loss/total")]
    assert steps == sorted(set(steps))
    assert len(steps) == 38


def test_a_new_learning_rate_is_used_when_resuming(run_folder, unscored):
    train([f"resume={run_folder}", "frames=124", "optimizer.lr=1e-5"])
    assert read_checkpoint(run_folder)["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-5


# The other scripts ---------------------------------------------------------------------------------------------------


def test_evaluating_with_another_planner_needs_no_retraining(run_folder, monkeypatch):
    monkeypatch.setattr("worldmodels.evaluation.report.baselines", lambda *_: {"random": 0.0})
    before = (run_folder / "config.yaml").read_bytes()
    planner = ("planner.num_elites=3", "planner=cem", "planner.num_samples=6")
    script("evaluate")([f"run={run_folder}", *planner, "episodes=3", "seed=7"])
    own = (run_folder / "evaluation.json").read_bytes()
    folder = run_folder / "evaluations" / ",".join(sorted(planner))
    result = json.loads((folder / "evaluation.json").read_text())
    assert (run_folder / "evaluation.json").read_bytes() == own  # the training's own score stays
    assert video_of(folder).exists()
    assert (result["planner"], result["episodes"], result["evaluation_seed"]) == ("cem", 3, 7)
    assert len(result["returns"]) == len(result["returns_stochastic"]) == 3
    assert (run_folder / "config.yaml").read_bytes() == before


def test_imagining_is_reproducible_and_takes_a_horizon(run_folder):
    def errors(*words: str) -> dict:
        script("imagine")([f"run={run_folder}", "episodes=3", *words])
        return json.loads((run_folder / "imagine.json").read_text())

    one = errors("imag_horizon=2", "context=1")
    assert one["steps"] == [1, 2]
    assert one["context"] == 1
    torch.manual_seed(5)
    assert errors("imag_horizon=2", "context=1") == one


@pytest.mark.parametrize("planner", ["random", None])
def test_collecting_keeps_every_row(tmp_path, finished_run, planner):
    words = [*ENV, "planner=random"] if planner else [f"run={finished_run}", "env.num_envs=3"]
    script("collect")([f"to={tmp_path / 'set'}", "frames=50", *words])
    replay = Replay.open(tmp_path / "set")
    envs = replay.layout.num_envs
    assert envs == (2 if planner else 3)
    rows = replay.sample(64, len(replay) // envs)
    one_each = {int(state[0, 0]): index for index, state in enumerate(rows["state"])}
    assert set(one_each) == set(range(envs))
    for index in one_each.values():
        assert rows["state"][index, 0, 1:3].tolist() == [0, 0], "the first row must still be there"
    frames = sum(int((~rows["is_first"][index]).sum()) for index in one_each.values())
    assert 50 <= frames < 50 + envs


def test_trained_planner_is_recorded_exploring_or_as_scored(tmp_path, finished_run):
    """With explore=false the recorded actions are other ones, which repeat, and the card says which they are."""

    def actions(*words):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        script("collect")([f"to={folder}", "frames=30", f"run={finished_run}", "env.num_envs=2", *words])
        card = json.loads((folder / "card.json").read_text())
        assert card["explores"] == ("explore=false" not in words)
        return Replay.open(folder).all_windows(5)["action"]

    exploring, scored = actions(), actions("explore=false")
    assert not torch.equal(exploring, scored)
    assert torch.equal(scored, actions("explore=false"))


def test_a_run_loads_in_five_lines(finished_run):
    from worldmodels import load_run

    run = load_run(finished_run)
    trajectory = run.model.imagine(run.model.initial(2), torch.zeros(2, 5, run.action_dim), 5)
    assert trajectory.reward.shape == (2, 5)
    assert run.frames == 120


def test_importing_the_package_and_environments_brings_no_torch():
    code = "import sys, worldmodels, worldmodels.envs.dmc; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Ctrl-C --------------------------------------------------------------------------------------------------------------


def read_until(process: subprocess.Popen, text: str) -> str:
    said = ""
    while text not in said:
        character = process.stdout.read(1)
        assert character, said + process.stderr.read()
        said += character
    return said


def group(process: subprocess.Popen) -> list[int]:
    """Living processes of its group."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == process.pid and fields[0] != "Z":
            pids.append(int(stat.parent.name))
    return pids


def nobody_left(process: subprocess.Popen) -> bool:
    deadline = time.monotonic() + 15
    while group(process) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not group(process)


def interrupt(process: subprocess.Popen) -> str:
    """Ctrl-C, as a terminal sends it: to everybody."""
    os.killpg(process.pid, signal.SIGINT)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error == "\nstopping and saving; press Ctrl-C again to stop at once\n"
    assert nobody_left(process)
    return said


def test_ctrl_c_saves_and_resumes_in_prefill_and_training(tmp_path, unscored):
    """The message after Ctrl-C names the commands that go on, and the resumed run trains until its frames are up."""
    folder = tmp_path / "run"
    slow = [*WORDS, "frames=40000", "prefill=20000", f"run_dir={folder}"]
    process = spawn("train", *slow)
    read_until(process, "prefill: ")
    said = interrupt(process)
    for command in ("train.py resume", "evaluate.py run", "imagine.py run"):
        assert f"python scripts/{command}={folder}" in said
    assert "evaluation.json" in said
    assert "imagine.json" in said
    first = read_checkpoint(folder)["counters"]
    assert first["updates"] == 0 < first["decisions"] < 20000
    # Resumed with a prefill that is over by now, so that updates begin at once.
    process = spawn("train", f"resume={folder}", f"prefill={first['decisions']}")
    read_until(process, "it/s, ")
    interrupt(process)
    second = read_checkpoint(folder)["counters"]
    assert 0 < second["updates"] < 1000
    end = second["frames"] + 8
    train([f"resume={folder}", f"prefill={first['decisions']}", f"frames={end}"])
    third = read_checkpoint(folder)["counters"]
    assert end - 2 < third["frames"] <= end, "the last update is paid for by two decisions"
    assert third["updates"] > second["updates"]


def test_a_second_ctrl_c_ends_everything_at_once(tmp_path):
    flag = tmp_path / "flag"
    flag.write_text("hang")
    words = ("env._target_=sabotage.Sabotaged", f"+env.file={flag}", "+env.after=2")
    process = spawn("train", *WORDS, *words, f"run_dir={tmp_path / 'run'}")
    read_until(process, "Training:")
    time.sleep(0.5)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.5)
    process.wait(timeout=5)
    process.communicate()
    assert process.returncode == -signal.SIGINT
    assert nobody_left(process)


def test_a_whole_training_says_nothing_on_stderr(tmp_path):
    words = ("frames=70", "evaluation.episodes=1", "trainer.checkpoint_minutes=0.001", f"run_dir={tmp_path / 'run'}")
    process = spawn("train", *ENV, *REST, *words)
    said, error = process.communicate(timeout=120)
    assert process.returncode == 0
    assert error == ""
    for chatter in ("Tip", "GPU available", "weights_only", "max_epochs", "OpenGL"):
        assert chatter not in said
    assert "mppi (deterministic)" in said
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
