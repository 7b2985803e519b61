"""The memory tasks: rooms that can be recalled and, without a cue, cannot; one command from recording to figure."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from toy_runs import spawn

from worldmodels.common.batch import split_context
from worldmodels.config import config_dir, load_config
from worldmodels.data.replay import Replay
from worldmodels.envs.check import check
from worldmodels.envs.recall import COLORS, DARK, SHOWN, WALL, Recall
from worldmodels.errors import UserError
from worldmodels.factory import build_model
from worldmodels.model import Trajectory, WorldModel
from worldmodels.recall.episodes import record_episodes
from worldmodels.recall.report import TASKS, footnote, table
from worldmodels.recall.scores import recalled, score
from worldmodels.testing.sequences import randomize
from worldmodels.training.run import train

SHORT = (
    "experiment=memory",
    "size.deter=16",
    "size.hidden=8",
    "size.depth=2",
    "size.units=8",
    "memory.episodes=6",
    "memory.held_out=4",
    "memory.updates=2",
    "memory.backbones=[ssm,implicit]",
    "memory.delays=[4]",
    "memory.controls=[4]",
)


@pytest.mark.process
def test_the_shipped_configuration_passes_the_checker():
    config = OmegaConf.to_container(OmegaConf.load(config_dir() / "env" / "recall.yaml"))
    assert [outcome for _, outcome in check(config, steps=40)] == ["ok"] * 5


def episode(env, actions):
    observation, _ = env.reset()
    frames, rewards = [observation["pixels"]], [0.0]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        assert not terminated
        frames.append(observation["pixels"])
        rewards.append(reward)
    return np.stack(frames), rewards, truncated


def test_recall__rewards_the_fitting_door_and_hides_the_room():
    """Only the choice that fits the room is rewarded, and the frames between are gray, with no color of a room."""
    env, seen = Recall(delay=4, seed=3), set()
    for trial in range(120):
        random = np.random.RandomState(trial)
        actions = random.randint(2, size=Recall.length(4) - 1)
        frames, rewards, over = episode(env, actions)
        assert over
        assert len(frames) == Recall.length(4) == 9
        room, again, doors = frames[0], frames[-1], SHOWN + 4
        assert np.array_equal(room, again)
        assert np.array_equal(frames[SHOWN - 1], room)
        first = int(np.array_equal(room[:, 0, 0], COLORS[1]))
        assert rewards == [float(t == doors + 1 and actions[doors] == first) for t in range(9)]
        for hidden in frames[SHOWN:-1]:
            assert (hidden == hidden[0]).all()  # grey: no colour of a room is left
        seen.add(room.tobytes())
    assert len(seen) == 16


def test_actions_move_the_hallway():
    env = Recall(delay=6, seed=0)
    left, right = (episode_from(env, [action] * 4) for action in (0, 1))
    assert np.array_equal(np.roll(left[2], 1, axis=-1), left[3])
    assert np.array_equal(np.roll(right[2], -1, axis=-1), right[3])


def episode_from(env, actions):
    env.restore({"room": [0, 1, 0, 1], "place": 0, "step": 0, "random": env.snapshot()["random"]})
    return [env.step(action)[0]["pixels"] for action in actions]


def test_without_a_cue_the_same_room_comes_from_nowhere():
    with_cue, without = Recall(delay=4, seed=3), Recall(delay=4, cue=False, seed=3)
    actions = [1] * 8
    frames, rewards, _ = episode(with_cue, actions)
    others, same_rewards, _ = episode(without, actions)
    assert rewards == same_rewards
    assert np.array_equal(frames[SHOWN:], others[SHOWN:])
    assert len(np.unique(others[:SHOWN])) == 1


class Knows(WorldModel):
    """A world model that remembers the room, or guesses."""

    def __init__(self, batch, right):
        torch.nn.Module.__init__(self)
        self.batch, self.right = batch, right
        self.heads = {"reward": lambda feat, action: self.reward(feat[..., 1:, 0].long())}

    def reward(self, step):
        truth = self.batch["reward"].gather(1, step)
        return truth if self.right else 1 - truth

    def initial(self, n):
        return None

    def observe(self, rows, state):
        steps = torch.arange(rows["action"].shape[1], dtype=torch.float32)
        feat = steps[None, :, None].expand(len(rows["action"]), -1, 1)
        return type("Rollout", (), {"feat": feat, "post": feat}), feat[:, -1:], None

    def imagine(self, state, actions, steps, generator):
        feat = state + torch.arange(steps + 1, dtype=torch.float32)[:, None]
        return Trajectory(feat, actions, self.reward(feat[:, 1:, 0].long()), torch.ones(len(feat), steps))

    def decode(self, feat):
        index = feat[..., 0].long()[..., None, None, None].expand(-1, -1, *self.batch["pixels"].shape[2:])
        frames = self.batch["pixels"].gather(1, index).float() / 255
        return {"pixels": frames if self.right else 120 / 255 - frames}


@pytest.fixture
def rooms(tmp_path):
    """Twelve episodes with a delay of 25."""
    record_episodes(load_config([*SHORT, "env.delay=25"]).env, tmp_path / "rooms", 12, 0, 1.0)
    return Replay.open(tmp_path / "rooms", cross_resets=False).all_windows(Recall.length(25))


@pytest.mark.parametrize("right", [True, False])
def test_score__is_one_for_knowing_and_zero_for_the_opposite(rooms, right):
    """In every task, who knows the rooms scores 1 and who knows their opposite scores 0."""
    assert len(rooms["action"]) == 12
    assert len({row.numpy().tobytes() for row in rooms["action"]}) == 12
    assert 0 < rooms["reward"].sum() < 12
    scores, picture = score(Knows(rooms, right), rooms, 25)
    assert scores == dict.fromkeys(TASKS, float(right))
    assert picture.ndim == 3


@pytest.mark.parametrize("posterior", ["filter", "obs"])
def test_what_is_imagined_depends_on_nothing_later(rooms, posterior):
    """With the opposite future every hit is a miss, and the other way round."""
    observations = {"pixels": ((3, 16, 16), torch.uint8)}
    cfg = load_config([*SHORT, "dynamics=ssm", f"dynamics.posterior={posterior}"])
    world, batch = randomize(build_model(cfg, observations, 2)), split_context(rooms, 0)[1]
    half, door = 15, SHOWN + 25 + 1

    def recall(rows):
        return recalled(world, rows, 25, torch.Generator().manual_seed(0))

    def changed(first, opposite):
        return {key: torch.cat([batch[key][:, :first], opposite(key)[:, first:]], dim=1) for key in batch}

    torch.manual_seed(0)
    hits, clip = recall(batch)
    torch.manual_seed(0)
    others, other = recall(
        changed(
            door,
            lambda key: {"pixels": rooms["pixels"][:, :, [1, 0, 2]], "reward": 1 - rooms["reward"]}.get(
                key, batch[key]
            ),
        )
    )
    assert torch.equal(clip.model, other.model)
    for task in ("imagined", "room"):
        assert torch.equal(hits[task], ~others[task]), task
    torch.manual_seed(0)
    others, _ = recall(changed(half, lambda key: DARK + WALL - batch[key] if key == "pixels" else batch[key]))
    assert torch.equal(hits["hall"], ~others["hall"])


@pytest.mark.process
def test_one_command_records_trains_scores_and_draws(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train([*SHORT, f"run_dir={folder}"])
    found = json.loads((folder / "memory.json").read_text())["cells"]
    kinds = {(c["dynamics"], c["posterior"], c["delay"], c["cue"]) for c in found}
    assert kinds == {
        (name, posterior, 4, cue)
        for name, posterior in (("ssm", "filter"), ("ssm", "obs"), ("implicit", None))
        for cue in (True, False)
    }
    assert all(cell["updates"] == 2 and cell["scores"].keys() == TASKS.keys() for cell in found)
    text = (folder / "memory.md").read_text()
    assert re.search(r"\| delay \| parameters \| 4 \| 4, no cue \|", text)
    assert text.count("| ssm filter |") == len(TASKS)
    assert (folder / "memory.png").stat().st_size > 10_000
    assert (folder / "cells" / "ssm-obs-4" / "recall.png").is_file()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}
    (folder / "cells" / "ssm-obs-4" / "result.json").unlink()
    train([f"resume={folder}"])
    with pytest.raises(UserError, match=r"memory\.updates=3 would be obeyed only by trainings that are not finished"):
        train([f"resume={folder}", "memory.updates=3"])
    after = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}
    changed = [path.parent.name for path in before if after[path] != before[path]]
    assert changed == ["ssm-obs-4"]
    train([f"resume={folder}", "memory.delays=[5]", "memory.posteriors=[obs]", "memory.backbones=[ssm]"])
    assert {c["delay"] for c in json.loads((folder / "memory.json").read_text())["cells"]} == {4, 5}


@pytest.mark.process
def test_a_training_that_fails_is_named_and_the_others_go_on(tmp_path):
    folder = tmp_path / "run"
    words = ("memory.backbones=[rssm,koopman]", "memory.posteriors=[obs]", "memory.controls=[]", "size.blocks=7")
    with pytest.raises(UserError, match=r"^1 trainings failed, rssm-obs-4 first: see .*failed\.txt, and continue"):
        train([*SHORT, *words, f"run_dir={folder}"])
    assert "blocks=7 must divide" in (folder / "cells" / "rssm-obs-4" / "failed.txt").read_text()
    text = (folder / "memory.md").read_text()
    assert text.endswith("failed: rssm-obs-4\n")
    assert "| koopman obs |" in text


@pytest.mark.process
def test_time_ends_a_training_and_the_table_says_so(tmp_path):
    folder = tmp_path / "run"
    words = ("memory.backbones=[koopman]", "memory.posteriors=[obs]", "memory.controls=[]")
    train([*SHORT, *words, "memory.updates=1000000", "memory.minutes=0.05", f"run_dir={folder}"])
    [cell] = json.loads((folder / "memory.json").read_text())["cells"]
    assert 0 < cell["updates"] < cell["asked_updates"] == 1_000_000
    assert f"koopman obs, 4: {cell['updates']}." in (folder / "memory.md").read_text()


def test_trainings_that_ran_out_of_time_are_marked():
    found = [
        {"dynamics": name, "posterior": "obs", "delay": 4, "cue": True, "episodes": 100, "scores": {"room": 0.5}}
        | {"updates": updates, "asked_updates": 9, "parameters": 1234}
        for name, updates in (("ssm", 9), ("mamba", 7))
    ]
    text = table(found, "room")
    assert "| ssm obs | 1,234 | 50 ± 5 |" in text
    assert "| mamba obs | 1,234 | 50 ± 5* |" in text
    assert footnote(found).endswith("before all updates were made: mamba obs, 4: 7.")
    assert footnote(found[:1]) == ""


def test_seeds_of_a_training_are_one_cell():
    cell = {"dynamics": "ssm", "posterior": "obs", "delay": 4, "cue": True, "episodes": 100, "parameters": 1}
    shares = [0.9, 0.5, *[0.7] * 6]
    found = [cell | {"updates": 9, "asked_updates": 9, "scores": {"room": share}} for share in shares]
    assert "| ssm obs | 1 | 70 (2 seeds: 90, 50) |" in table(found[:2], "room")
    assert "| ssm obs | 1 | 70 (8 seeds: IQM 70 (" in table(found, "room")


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("memory.delays=[10,0]", "memory.delays=[10, 0] holds 0, which must be a whole number of at least 1"),
        (
            "memory.posteriors=[obz]",
            "memory.posteriors=[obz] holds obz, which must be one of filter, obs.",
        ),
        ("memory.backbones=[mambo]", "dynamics=mambo is not one of"),
        ("memory.delays=[3]", "memory.delays=3 leaves no half of the hallway to imagine: 4 is the least."),
        ("memory.delays=10", "memory.delays=10 must be a list"),
        ("memory.workers=0", "memory.workers=0 must be a whole number of at least 1"),
        ("dynamics=ssm", "dynamics=ssm has no effect in experiment=memory, where memory.backbones decides."),
        ("env.delay=9", "env.delay=9 has no effect in experiment=memory, where memory.delays decides."),
        ("env=dmc", "env=dmc has no effect in experiment=memory, where env=recall decides."),
        ("frames=9", "frames=9 has no effect in experiment=memory, which trains on recordings and plans nothing."),
        ("memory.least_batch=0", "memory.least_batch=0 must be a whole number of at least 1"),
        ("memory.updatez=3", "there is no key 'memory.updatez'"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_made(said, tmp_path, word, sentence):
    assert said.refusal("train", *SHORT, word, f"run_dir={tmp_path / 'run'}").startswith(sentence)
    assert not (tmp_path / "run").exists()


def test_a_procedure_that_does_not_exist_is_a_users_mistake(said):
    refusal = said.refusal("train", "procedure=worldmodels.memroy.run")
    assert refusal.startswith("procedure=worldmodels.memroy.run is no part that a configuration may name")


@pytest.mark.process
@pytest.mark.slow
def test_it_ends_without_a_complaint(tmp_path):
    """Python's own, of semaphores that killed processes never gave back."""
    less = ("memory.backbones=[ssm]", "memory.posteriors=[obs]", "memory.controls=[]")
    process = spawn("train", *SHORT, *less, f"run_dir={tmp_path / 'run'}")
    _, complaints = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "leaked" not in complaints


@pytest.mark.process
def test_ctrl_c_keeps_what_is_finished_and_leaves_no_process(tmp_path):
    folder = tmp_path / "run"
    process = spawn("train", *SHORT, "memory.updates=100000", f"run_dir={folder}")
    deadline = time.monotonic() + 120
    while not list(folder.glob("cells/*/events*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"resume={folder}" in out
    assert (folder / "memory.json").is_file()
    assert gone(process.pid)


def gone(group: int) -> bool:
    """Whether every process of a group ends within ten seconds."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.2)
    return False
