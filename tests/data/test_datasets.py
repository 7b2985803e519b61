"""Recorded datasets: other people's layouts row by row, what is refused, the card, and learning from them."""

from __future__ import annotations

import json
import logging
import shutil

import h5py
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from toy_runs import ENV, REST, built, script

from worldmodels.config import load_config
from worldmodels.data.datamodule import OfflineDataset
from worldmodels.data.import_dataset import open_dataset, rows_of
from worldmodels.data.prefetch import Batches
from worldmodels.data.readers import read
from worldmodels.data.readers.base import Recording, resized
from worldmodels.data.replay import Replay
from worldmodels.errors import UserError
from worldmodels.runs.folders import read_checkpoint
from worldmodels.runs.loading import load_run
from worldmodels.runs.recordings import require_same_world
from worldmodels.training.run import train

LENGTHS = (5, 8)
OFFLINE = ("data.length=4", "data.cross_resets=false", "updates=12", "trainer.video_every=6")
BARE = tuple(word for word in REST if not word.startswith(("planner.", "data.length", "trainer.watch")))
DENOISES = ("planner.plan_horizon=3", "denoiser.width=16", "planner.acting.steps=2", "planner.acting.replan_every=1")
SPEC = {
    "pixels": ((3, 16, 16), torch.uint8),
    "action": ((2,), torch.float32),
    "reward": ((), torch.float32),
    "is_first": ((), torch.bool),
    "is_last": ((), torch.bool),
    "is_terminal": ((), torch.bool),
}


def episodes(size=16):
    random = np.random.default_rng(0)
    made = []
    for length in LENGTHS:
        rows = {
            "pixels": random.integers(256, size=(length, 3, size, size), dtype=np.uint8),
            "action": random.uniform(-1, 1, (length, 2)).astype(np.float32),
            "reward": random.uniform(size=length).astype(np.float32),
        }
        rows["action"][0] = rows["reward"][0] = 0
        made.append(rows)
    return made


def write_hdf5(path, made, terminal=(False, True)):
    """V-D4RL's layout."""
    with h5py.File(path, "w") as file:
        file["observation"] = np.concatenate([rows["pixels"] for rows in made])
        file["action"] = np.concatenate([rows["action"] for rows in made])
        file["reward"] = np.concatenate([rows["reward"] for rows in made])[:, None]
        steps = [np.array([0] + [1] * (len(rows["reward"]) - 2) + [2]) for rows in made]
        file["step_type"] = np.concatenate(steps)
        discounts = [np.ones(len(rows["reward"])) for rows in made]
        for discount, ended in zip(discounts, terminal, strict=True):
            discount[-1] = 1 - ended
        file["discount"] = np.concatenate(discounts)
    return path


def write_npz(folder, made, terminal=(False, True)):
    """Dreamer's."""
    folder.mkdir()
    for number, (rows, ended) in enumerate(zip(made, terminal, strict=True)):
        flags = np.zeros(len(rows["reward"]), bool)
        flags[-1] = ended
        image = rows["pixels"].transpose(0, 2, 3, 1)
        np.savez(folder / f"{number}.npz", image=image, action=rows["action"], reward=rows["reward"], is_terminal=flags)
    return folder


def every_row(replay):
    """All rows in order."""
    [(first, length, env)] = [(0, len(replay), 0)]
    rows = []
    while first < length:
        rows.append(replay.episode_from(first, length, env))
        first += len(rows[-1]["reward"])
    return rows


@pytest.mark.parametrize("write", [lambda p, e: write_hdf5(p / "a.hdf5", e), lambda p, e: write_npz(p / "b", e)])
def test_every_row_of_other_layouts_is_where_it_belongs(tmp_path, write):
    made = episodes()
    replay = open_dataset(str(write(tmp_path, made)), SPEC, tmp_path / "replay", 1.0, False, 0)
    for rows, expected, ended in zip(every_row(replay), made, (False, True), strict=True):
        for key in ("pixels", "action", "reward"):
            np.testing.assert_array_equal(rows[key], expected[key])
        assert rows["is_first"].tolist() == [True] + [False] * (len(rows["reward"]) - 1)
        assert rows["is_last"].tolist() == [False] * (len(rows["reward"]) - 1) + [True]
        assert rows["is_terminal"][-1] == ended
        assert not rows["is_terminal"][:-1].any()
    again = open_dataset(str(tmp_path / "gone"), SPEC, tmp_path / "replay", 1.0, False, 0)
    assert len(again) == sum(LENGTHS)  # a run that is resumed has its copy


def test_frames_are_resized_to_what_is_asked(tmp_path):
    path = write_hdf5(tmp_path / "a.hdf5", episodes(size=84))
    replay = open_dataset(str(path), SPEC, tmp_path / "replay", 1.0, False, 0)
    assert replay.sample(2, 3)["pixels"].shape == (2, 3, 3, 16, 16)
    frames = np.zeros((1, 3, 32, 32), np.uint8)
    frames[0, 0, :16] = 200
    small = resized(frames, 16)
    assert small[0, 0, :8].tolist() == [[200] * 16] * 8
    assert not small[0, 0, 8:].any()
    assert not small[0, 1:].any()


def broken(tmp_path, how):
    path = write_hdf5(tmp_path / "a.hdf5", episodes())
    with h5py.File(path, "a") as file:
        how(file)
    return path


def replaced(name, change):
    def how(file):
        value = file[name][:]
        del file[name]
        file[name] = change(value)

    return how


def grouped(name):
    def how(file):
        del file[name]
        file.create_group(name)

    return how


def emptied(file):
    del file["step_type"]
    for name in list(file):
        replaced(name, lambda x: x[:0])(file)


def nan(value):
    value[3] = np.nan
    return value


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda file: file.__delitem__("reward"), r"a\.hdf5 has no field 'reward'"),
        (lambda file: file.__delitem__("observation"), r"a\.hdf5 has no field 'observation', 'image' or 'state'"),
        (replaced("step_type", lambda x: x * 0 + 1), r"a\.hdf5: 'step_type' must be 0"),
        (replaced("action", nan), r"a\.hdf5, rows 0 to 4: field 'action' holds numbers that are not finite"),
        (replaced("reward", lambda x: x[:-2]), r"a\.hdf5: fields have different numbers of rows"),
        (
            replaced("observation", lambda x: x.transpose(0, 2, 3, 1)),
            r"'pixels' is uint8 \(5, \d+, \d+, 3\), where uint8",
        ),
        (replaced("observation", lambda x: x[:, 0, 0] / 9.0), r"a\.hdf5, rows 0 to 4: 'pixels' is float64 \(5, \d+\)"),
        (grouped("observation"), r"a\.hdf5: field 'observation' is no array but a group"),
        (grouped("action"), r"a\.hdf5: field 'action' is no array but a group"),
        (emptied, r"a\.hdf5: field 'action' has no rows"),
        (replaced("discount", lambda x: x[:-3]), r"a\.hdf5: field 'discount' is of shape \(10,\), where 13 rows"),
        (replaced("step_type", lambda x: np.append(x, 1)), r"a\.hdf5: field 'step_type' is of shape \(14,\), where 13"),
        (grouped("step_type"), r"a\.hdf5: field 'step_type' is no array but a group, where 13 rows are expected"),
        (replaced("action", lambda x: x[:, :1]), r"a\.hdf5, rows 0 to 4: 'action' is float32 \(1,\), where .* \(2,\)"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_field(tmp_path, how, message):
    with pytest.raises(UserError, match=message):
        open_dataset(str(broken(tmp_path, how)), SPEC, tmp_path / "replay", 1.0, False, 0)


def test_datasets_that_are_none_are_refused(tmp_path):
    for name, message in (
        (str(tmp_path / "nothing"), "does not exist"),
        (str(tmp_path), "layout that is not known"),
    ):
        with pytest.raises(UserError, match=message):
            list(read(name))
    (tmp_path / "torn.hdf5").write_text("not that")
    with pytest.raises(UserError, match=r"torn\.hdf5 cannot be read as HDF5"):
        list(read(str(tmp_path)))
    for content in (b"", b"PK\x03\x04 torn"):
        (tmp_path / "torn.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"torn\.npz cannot be read as npz"):
            list(read(str(tmp_path / "torn.npz")))
    made = bytearray((write_npz(tmp_path / "whole", episodes()) / "0.npz").read_bytes())
    made[400] ^= 255  # in the middle of a member
    (tmp_path / "torn.npz").write_bytes(made)
    with pytest.raises(UserError, match=r"torn\.npz cannot be read as npz"):
        list(read(str(tmp_path / "torn.npz")))
    with h5py.File(tmp_path / "torn.hdf5", "w") as file:
        for key, value in episodes()[0].items():
            file.create_dataset("observation" if key == "pixels" else key, data=value, fletcher32=True, chunks=True)
        offset = file["action"].id.get_chunk_info(0).byte_offset
    made = bytearray((tmp_path / "torn.hdf5").read_bytes())
    made[offset + 3] ^= 255
    (tmp_path / "torn.hdf5").write_bytes(made)
    with pytest.raises(UserError, match=r"torn\.hdf5 cannot be read as HDF5"):
        list(read(str(tmp_path / "torn.hdf5")))


def test_dreamer_files_end_for_good_at_a_zero_discount(tmp_path):
    """The last discount of an episode in Dreamer's files says whether its end is terminal."""
    for ended in (False, True):
        rows = episodes()[0]
        image, discount = rows["pixels"].transpose(0, 2, 3, 1), np.ones(len(rows["reward"]))
        discount[-1] = not ended
        path = tmp_path / "episode.npz"
        np.savez(path, image=image, action=rows["action"], reward=rows["reward"], discount=discount)
        assert [episode.terminal for episode in read(str(path))] == [ended]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "set"
    script("collect")([f"to={folder}", "frames=120", *ENV, "planner=random"])
    return folder


@pytest.mark.process
def test_a_card_says_what_is_in_a_recording(dataset):
    card = json.loads((dataset / "card.json").read_text())
    assert card["planner"] == "random"
    assert "action_dim=2" in (dataset / "card.md").read_text()
    assert card["episodes"] > 10
    assert card["decisions"] == card["frames"]
    assert card["unfinished_episodes"] in (0, 1, 2)
    assert card["decisions_per_episode"]["least"] == 3
    assert card["decisions_per_episode"]["most"] == 7
    assert card["returns"]["least"] < card["returns"]["mean"] < card["returns"]["most"]
    assert "pixels uint8 [3, 16, 16]" in (dataset / "card.md").read_text()
    with Image.open(dataset / "returns.png") as image:
        assert image.size[0] > 300
    with Image.open(dataset / "clips.gif") as image:
        assert image.n_frames > 3


def test_require_same_world__refuses_other_decisions_or_frames(tmp_path, caplog):
    """Another action repeat, rendering or camera is refused, the last two for pixels; another task is only told."""
    made = open_dataset(
        str(write_hdf5(tmp_path / "a.hdf5", episodes())), SPEC, tmp_path / "run" / "replay", 1, False, 0
    )
    assert len(made) == sum(LENGTHS)
    cfg = load_config(["env.action_repeat=2"])
    OmegaConf.save(cfg, tmp_path / "run" / "config.yaml")
    for place in ("run", "run/replay", "a.hdf5"):
        require_same_world(str(tmp_path / place), cfg.env)
    for word, message in (
        ("env.action_repeat=4", r"recorded with env\.action_repeat=2, and this is env\.action_repeat=4"),
        ("env.render.quality=full", r"recorded with env\.render\.quality=fast"),
        ("env.camera=0", r"recorded with env\.camera=None"),
    ):
        other = load_config(["env.action_repeat=2", word]).env
        with pytest.raises(UserError, match=message):
            require_same_world([str(tmp_path / "run")], other)
        if "repeat" not in word:
            require_same_world(str(tmp_path / "run"), load_config(["env.action_repeat=2", word, "env.obs=state"]).env)
    assert "was recorded" not in caplog.text
    require_same_world(str(tmp_path / "run"), load_config(["env.action_repeat=2", "env.task=walker_walk"]).env)
    assert "was recorded with env.task=cartpole_swingup, and this is walker_walk" in caplog.text


@pytest.mark.process
def test_training_looks_at_what_a_recording_was_made_with(dataset, tmp_path):
    other = shutil.copytree(dataset, tmp_path / "other")
    cfg = OmegaConf.load(other / "config.yaml")
    OmegaConf.save({**cfg, "env": {**cfg.env, "action_repeat": 3}}, other / "config.yaml")
    with pytest.raises(UserError, match=r"recorded with env\.action_repeat=3"):
        train([*ENV, *BARE, *OFFLINE, f"data={other}", "planner=cloning", f"run_dir={tmp_path / 'run'}"])


@pytest.mark.process
def test_what_is_too_short_to_learn_from_is_told(dataset, tmp_path, caplog, unscored):
    words = [word for word in OFFLINE if not word.startswith("data.length")]
    train([*ENV, *BARE, *words, "data.length=6", f"data={dataset}", "planner=cloning", f"run_dir={tmp_path / 'run'}"])
    assert "of the rows are in episodes of less than 6" in caplog.text


@pytest.mark.process
@pytest.mark.parametrize("planner", ["diffusion", pytest.param("cloning", marks=pytest.mark.slow)])
def test_a_model_and_a_planner_are_learned_from_a_recording(dataset, tmp_path, planner, request):
    own = {"diffusion": DENOISES, "cloning": ()}[planner]
    train([*ENV, *BARE, *OFFLINE, f"data={dataset}", f"planner={planner}", *own, f"run_dir={tmp_path / 'run'}"])
    before = {file.name: file.read_bytes() for file in dataset.glob("*.memmap")}
    run = load_run(tmp_path / "run")
    assert run.checkpoint["counters"]["updates"] == 12
    assert run.frames == read_checkpoint(tmp_path / "run")["counters"]["frames"]
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["planner"] == planner
    assert (tmp_path / "run" / "imagine.json").exists()
    assert not (tmp_path / "run" / "replay").exists()
    request.getfixturevalue("unscored")
    train([f"resume={tmp_path / 'run'}", "updates=15"])
    assert read_checkpoint(tmp_path / "run")["counters"]["updates"] == 15
    assert {file.name: file.read_bytes() for file in dataset.glob("*.memmap")} == before


@pytest.mark.process
@pytest.mark.parametrize("ahead", [False, True])
def test_resuming_draws_the_windows_that_would_have_come(dataset, ahead):
    def drawn(data, count):
        return [batch["state"] for _, batch in zip(range(count), data, strict=False)]

    def opened(ahead):
        batches = Batches(Replay.open(dataset, cross_resets=False), 4, 4)
        batches.reads_ahead = ahead
        return OfflineDataset(batches, 6)

    whole, first, rest = drawn(opened(False), 6), opened(ahead), opened(ahead)
    drawn(first, 3)
    rest.load_state_dict(first.state_dict())
    for one, other in zip(drawn(rest, 3), whole[3:], strict=True):
        assert torch.equal(one, other)


@pytest.mark.process
def test_from_state_alone_there_is_nothing_to_draw(dataset, tmp_path):
    env = ["env=counter", "env.num_envs=2", "env.obs=state"]
    words = [*OFFLINE, "evaluation.episodes=1", f"data={dataset}", "planner=diffusion", *DENOISES]
    train([*env, *BARE, *words, f"run_dir={tmp_path / 'run'}"])
    assert (tmp_path / "run" / "evaluation.json").exists()
    assert not (tmp_path / "run" / "denoising.gif").exists()


@pytest.mark.process
def test_stored_latents_are_not_those_of_another_model(dataset, tmp_path):
    with pytest.raises(UserError, match=r"data\.context=latent reads latents that a training wrote itself"):
        train([*ENV, *REST, "data.context=latent", f"data={dataset}", f"run_dir={tmp_path / 'run'}"])


def test_d4rls_flat_arrays_are_read(tmp_path):
    state = np.arange(7.0)[:, None].repeat(2, 1)
    path = tmp_path / "d4rl.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = state, 0.1 * state
        file["rewards"] = np.arange(7.0) + 10
        file["terminals"], file["timeouts"] = np.arange(7) == 2, np.arange(7) == 5
        file["next_observations"] = state + 100
    first, second, third = read(str(path))
    assert first.observations["state"][:, 0].tolist() == [0, 1, 2, 102]
    assert first.reward.tolist() == [0, 10, 11, 12]
    np.testing.assert_allclose(first.action[:, 1], [0, 0, 0.1, 0.2])
    assert [first.terminal, second.terminal, third.terminal] == [True, False, False]
    assert second.observations["state"][:, 0].tolist() == [3, 4, 5, 105]
    assert third.observations["state"][:, 0].tolist() == [6, 106]
    assert [first.finished, second.finished, third.finished] == [True, True, False]


def test_d4rl_files_without_timeouts_are_cut_at_jumps(tmp_path):
    """An episode ends where the next row does not follow; without next_observations the file is refused."""
    state = np.array([0.0, 1, 2, 50, 51, 90, 91])[:, None]
    path = tmp_path / "d4rl.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"], file["next_observations"] = state, state + 1
        file["actions"], file["rewards"], file["terminals"] = 0 * state, np.ones(7), np.arange(7) == 4
    made = list(read(str(path)))
    assert [episode.observations["state"][:, 0].tolist() for episode in made] == [
        [0, 1, 2, 3],
        [50, 51, 52],
        [90, 91, 92],
    ]
    assert [episode.terminal for episode in made] == [False, True, False]
    with h5py.File(path, "a") as file:
        del file["next_observations"]
    with pytest.raises(UserError, match=r"d4rl\.hdf5 has no field 'timeouts'.* does not say where episodes end"):
        list(read(str(path)))
    with h5py.File(path, "a") as file:
        file["timeouts"] = np.zeros(5, bool)
    with pytest.raises(UserError, match=r"d4rl\.hdf5: field 'timeouts' is of shape \(5,\), where 7 rows are expected"):
        list(read(str(path)))


def test_a_file_without_steps_is_one_episode(tmp_path):
    [rows, _] = episodes()
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["observation"], file["action"], file["reward"] = rows["pixels"], rows["action"], rows["reward"]
    [read_back] = read(str(tmp_path))
    np.testing.assert_array_equal(read_back.observations["pixels"], rows["pixels"])
    assert not read_back.terminal


@pytest.mark.process
def test_several_datasets_are_one_whose_skill_tells_them_apart(dataset, tmp_path):
    spec = Replay.open(dataset).layout.spec
    whole = open_dataset(str(dataset), spec, tmp_path / "unused", 1.0, False, 0)
    both = open_dataset([str(dataset), str(dataset)], spec, tmp_path / "both", 1.0, False, 0)
    assert not (tmp_path / "unused").exists()
    one, two = whole.all_windows(3), both.all_windows(3)
    assert (two["skill"] == two["skill"][:, :1]).all()
    for skill in (0, 1):
        rows = two["skill"][:, 0] == skill
        assert rows.sum() == len(one["reward"])
        for key in spec:
            torch.testing.assert_close(two[key][rows].double().mean(0), one[key].double().mean(0))
    card = json.loads((tmp_path / "both" / "card.json").read_text())
    assert card["dataset"] == [str(dataset)] * 2
    assert card["rows"] == 2 * len(whole)


def test_cut_and_unfinished_episodes_are_not_made_whole(tmp_path):
    """The ring overwrote the beginning of the first; the last was still going on when recording ended."""
    first, second = episodes()
    third = {key: value[:3] for key, value in second.items()}
    ring = Replay(tmp_path / "ring", SPEC, 1, sum(LENGTHS) + 3 - 2, 1.0)
    for rows, finished in ((first, True), (second, True), (third, False)):
        episode = Recording("toy", {"pixels": rows["pixels"]}, rows["action"], rows["reward"], False, None, finished)
        ring.extend_block(rows_of(episode, SPEC))
    whole, unfinished = read(str(tmp_path / "ring"))
    np.testing.assert_array_equal(whole.observations["pixels"], second["pixels"])
    np.testing.assert_array_equal(unfinished.observations["pixels"], third["pixels"])
    assert (whole.finished, unfinished.finished) == (True, False)
    both = open_dataset([str(tmp_path / "ring")] * 2, SPEC, tmp_path / "both", 1.0, False, 0, 4)
    card = json.loads((tmp_path / "both" / "card.json").read_text())
    assert (card["episodes"], card["unfinished_episodes"]) == (2, 2)
    assert card["frames"] == 4 * card["decisions"] == 4 * 2 * (LENGTHS[1] - 1 + 2)
    assert len(both) == 2 * (LENGTHS[1] + 3)


def test_a_file_may_tell_skills_itself(tmp_path):
    made = episodes()
    for number, rows in enumerate(made):
        folder = tmp_path / "npz"
        folder.mkdir(exist_ok=True)
        image = rows["pixels"].transpose(0, 2, 3, 1)
        skill = np.full(len(image), 4 + number, np.int32)
        np.savez(folder / f"{number}.npz", image=image, action=rows["action"], reward=rows["reward"], skill=skill)
    replay = open_dataset(str(folder), SPEC, tmp_path / "replay", 1.0, False, 0)
    assert replay.all_windows(1)["skill"].flatten().tolist() == [4] * LENGTHS[0] + [5] * LENGTHS[1]
    assert (tmp_path / "replay" / "card.md").exists()
    assert (tmp_path / "replay" / "clips.gif").exists()
    path = write_hdf5(tmp_path / "a.hdf5", made)
    with h5py.File(path, "a") as file:
        file["skill"] = np.repeat([7, 8], LENGTHS)
    assert [set(episode.skill) for episode in read(str(path))] == [{7}, {8}]


@pytest.mark.process
def test_skills_are_learned_and_asked_for(dataset, tmp_path, unscored):
    skill = "{_target_: planners.diffusion.conditioning.SkillLabel, _partial_: true, skills: 2, value: 1}"
    label = f"+planner.learner.labels.skill={skill}"
    words = [*ENV, *BARE, *OFFLINE, f"data=[{dataset},{dataset}]", "planner=diffusion", *DENOISES, label]
    train([*words, f"run_dir={tmp_path / 'run'}"])
    run = load_run(tmp_path / "run", ["planner.learner.labels.skill.value=0"])
    assert run.planner.learner.labels["skill"].value == 0
    train([f"resume={tmp_path / 'run'}", "updates=15"])
    few = ["planner.learner.labels.skill.skills=1", "planner.learner.labels.skill.value=0"]
    with pytest.raises(UserError, match="shows skills 0 to 1, and the label's option skills=1 counts 0 to 0"):
        train([*words, *few, f"run_dir={tmp_path / 'few'}"])


def test_actions_beyond_the_box_are_refused(tmp_path):
    path = broken(tmp_path, replaced("action", lambda x: x * 2))
    with pytest.raises(UserError, match=r"a\.hdf5, rows .*: field 'action' reaches .*, and actions here lie in"):
        open_dataset(str(path), SPEC, tmp_path / "replay", 1.0, False, 0)


@pytest.mark.process
def test_a_recording_without_what_is_to_be_observed_is_refused(tmp_path):
    folder = tmp_path / "set"
    script("collect")([f"to={folder}", "frames=20", "env=counter", "env.obs=state", "planner=random"])
    with pytest.raises(UserError, match=r"has no 'pixels', only state: choose env\.obs accordingly"):
        train(["env=counter", "env.obs=pixels", *REST, f"data={folder}", f"run_dir={tmp_path / 'run'}"])


@pytest.mark.process
def test_episodes_shorter_than_a_plan_are_refused(dataset, tmp_path):
    words = [*ENV, *BARE, "planner=diffusion", "data.length=33", "data.cross_resets=false", f"data={dataset}"]
    said = r"data=.*set: the longest of its episodes has 8 rows, and .* planner=diffusion take 33 of one"
    with pytest.raises(UserError, match=said):
        train([*words, f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(UserError, match="take 17 of one"):
        train([*words, "data.cross_resets=true", f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_open_dataset__adds_a_given_goal_to_every_row(tmp_path):
    """Recordings that show no goal are refused unless one is given; our own are then copied to take it."""
    goal = np.full((3, 16, 16), 7, np.uint8)
    spec = SPEC | {"goal_pixels": ((3, 16, 16), torch.uint8)}
    path = write_hdf5(tmp_path / "a.hdf5", episodes())
    with pytest.raises(UserError, match=r"has no 'goal_pixels', only pixels: choose env\.obs accordingly"):
        open_dataset(str(path), spec, tmp_path / "bare", 1.0, False, 0)
    replay = open_dataset(str(path), spec, tmp_path / "replay", 1.0, False, 0, 1, {"goal_pixels": goal})
    assert (replay.all_windows(3)["goal_pixels"] == 7).all()
    open_dataset(str(path), SPEC, tmp_path / "own", 1.0, False, 0)
    asked = (spec, tmp_path / "copy", 1.0, False, 0, 1, {"goal_pixels": goal})
    with pytest.raises(UserError, match=r"own was recorded without a goal .* data=\[.*own\], it is copied with that"):
        open_dataset(str(tmp_path / "own"), *asked)
    assert (open_dataset([str(tmp_path / "own")], *asked).all_windows(3)["goal_pixels"] == 7).all()


@pytest.mark.process
@pytest.mark.parametrize(("words", "told"), [([], True), (["data.context=burn_in", "data.burn_in=2"], False)])
def test_trajectories_that_begin_without_a_past_are_told_of(words, told, dataset, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("worldmodels"), "propagate", True)
    with (
        caplog.at_level(logging.WARNING),
        built(
            tmp_path / "run", *ENV, *BARE, *OFFLINE, f"data.dataset={dataset}", "planner=diffusion", *DENOISES, *words
        ),
    ):
        pass
    assert ("100 % of what plans are learned from begins in a latent" in caplog.text) == told
