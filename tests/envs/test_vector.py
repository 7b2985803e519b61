"""Streams of rows from worker processes: alignment, staggered resets, seeds, snapshots, and workers that fail."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from env_cases import single
from places import SUPPORT

from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError

pytestmark = pytest.mark.process

COUNTER = {
    "_target_": "worldmodels.envs.toy.Counter",
    "lengths": [3, 5, 2],
    "ends": ["truncate", "terminate", "both", "truncate"],
    "action_dim": 2,
    "obs": "both",
}
NOISY = {"_target_": "worldmodels.envs.toy.LinearGaussian", "noise": 0.2, "limit": 4}


def tape(steps: int, n: int, a: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(steps, n, a, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def counters():
    with VectorEnv(COUNTER, 3, seed=1) as envs:
        yield envs


def test_vector_env__rows_equal_those_of_single_environments(counters):
    """Episodes are staggered, so that some environments begin anew while others go on."""
    actions = tape(17, 3, 2)
    with VectorEnv(COUNTER, 3, seed=1) as envs:
        rows = [envs.reset(), *(envs.step(action) for action in actions)]
        assert envs.observation_spec == {"pixels": ((3, 16, 16), torch.uint8), "state": ((6,), torch.float32)}
    for index in range(3):
        for t, expected in enumerate(single(COUNTER, 1, index, actions[:, index])):
            for key, value in expected.items():
                np.testing.assert_array_equal(rows[t][key][index].numpy(), np.float32(value), err_msg=f"{key} {t}")
    ends = torch.stack([row["is_last"] for row in rows])
    assert (ends.any(1) & ~ends.all(1)).any(), "the fixture must stagger its episodes"


def test_every_row_tells_the_action_and_reward_that_led_there(counters):
    row = counters.reset()
    previous_last = torch.zeros(3, dtype=torch.bool)
    for action in tape(20, 3, 2, seed=1):
        assert torch.equal(row["state"][:, 4:], row["action"])
        assert torch.equal(row["state"][:, 3], row["reward"])
        first = row["is_first"]
        assert torch.equal(row["state"][:, 2] == 0, first)
        assert not row["action"][first].any()
        assert not row["reward"][first].any()
        assert torch.equal(row["frames"], (~first).long())
        assert not (row["is_terminal"] & ~row["is_last"]).any()
        previous_last = row["is_last"]
        row = counters.step(action)
        assert torch.equal(row["is_first"], previous_last)


def test_rows_do_not_change_once_given(counters):
    first = counters.reset()
    kept = {key: value.clone() for key, value in first.items()}
    counters.step(torch.ones(3, 2))
    assert all(torch.equal(first[key], kept[key]) for key in kept)


def test_actions_are_clamped_and_refused_when_wrong(counters):
    counters.reset()
    assert torch.equal(counters.step(torch.full((3, 2), 9.0))["action"], torch.ones(3, 2))
    with pytest.raises(UserError, match=r"shape \(3, 2\)"):
        counters.step(torch.zeros(2, 2))
    with pytest.raises(UserError, match="not finite"):
        counters.step(torch.full((3, 2), torch.nan))


def test_discrete_actions_are_one_hot():
    with VectorEnv({"_target_": "worldmodels.envs.toy.Chain", "length": 3}, 2, seed=0) as envs:
        assert envs.discrete
        assert envs.action_dim == 2
        envs.reset()
        row = envs.step(torch.tensor([[0.1, 0.9], [0.8, 0.2]]))
        assert row["action"].tolist() == [[0, 1], [1, 0]]
        assert row["state"].argmax(-1).tolist() == [1, 0]
        row = envs.step(torch.eye(2)[[1, 1]])
        assert row["is_terminal"].tolist() == [True, False]


def test_vector_env__seeds_differ_by_index_and_repeat():
    """Environments side by side differ, the same seed gives the same states, and another seed gives others."""

    def states(seed: int) -> torch.Tensor:
        with VectorEnv(NOISY, 2, seed) as envs:
            envs.reset()
            return torch.stack([envs.step(torch.zeros(2, 1))["state"] for _ in range(3)], 1)

    one, again, other = states(5), states(5), states(6)
    assert torch.equal(one, again)
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, other)


@pytest.mark.parametrize("steps", [2, 4])
def test_snapshots_continue_elsewhere_and_keep_a_pending_reset(steps):
    actions = tape(12, 2, 1)
    with VectorEnv(NOISY, 2, seed=0) as envs:
        envs.reset()
        last = [envs.step(action) for action in actions[:steps]][-1]
        assert last["is_last"].all() == (steps == 4)
        file = io.BytesIO()
        torch.save(envs.snapshot(), file)
        expected = [envs.step(action) for action in actions[steps:]]
    file.seek(0)
    with VectorEnv(NOISY, 2, seed=9) as envs:
        envs.restore(torch.load(file, weights_only=True))
        rows = [envs.step(action) for action in actions[steps:]]
    for row, other in zip(rows, expected, strict=True):
        assert all(torch.equal(row[key], other[key]) for key in row)


def broken(how: str) -> dict:
    return {"_target_": "broken_envs.Broken", "how": how}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", r"worker 1 \(Broken, pid \d+\) failed: ValueError: the gripper is gone \(broken_envs.py, line \d+\)"),
        ("nan observation", r"worker 1 \(Broken, pid \d+\) failed: .*nan in its observation 'state'"),
        ("nan reward", r"worker 1 \(Broken, pid \d+\) failed: .*reward of nan"),
        ("shape", r"worker 1 \(Broken, pid \d+\) failed: observation 'state' is float32 \(4,\)"),
        ("exit", r"worker 1 \(Broken, pid \d+\) died with exit code 7"),
        ("sys.exit", r"worker 1 \(Broken, pid \d+\) failed: SystemExit: 3 \(broken_envs.py, line \d+\)"),
        ("interrupt", r"worker 1 \(Broken, pid \d+\) failed: KeyboardInterrupt \(broken_envs.py, line \d+\)"),
        ("give up", r"worker 1 \(Broken, pid \d+\) failed: GaveUp: the gripper is gone \(broken_envs.py, line \d+\)"),
        ("slow exit", r"worker 1 \(Broken, pid \d+\) died with exit code 5"),
        ("huge reward", r"worker 1 \(Broken, pid \d+\) failed: .*reward of 1e\+300, beyond float32's 3.4e\+38"),
        ("hang", r"worker 1 \(Broken, pid \d+\) did not answer within 1 s"),
    ],
)
def test_a_worker_that_fails_is_named(how, said):
    with VectorEnv(broken(how), 3, seed=0, timeout=1.0) as envs:
        envs.reset()
        rows = [envs.step(torch.zeros(3, 1)) for _ in range(2)]
        with pytest.raises(UserError, match=said):
            envs.step(torch.zeros(3, 1))
        with pytest.raises(UserError, match=said):
            envs.step(torch.zeros(3, 1))
        assert all(torch.isfinite(row["state"]).all() for row in rows)


@pytest.mark.parametrize("how", ["raise", "exit", "hang", None])
def test_a_step_under_way_may_be_given_up(how, capfd):
    """Whatever becomes of it, closing says nothing."""
    with VectorEnv(broken(how) if how else COUNTER, 2, seed=0, timeout=1.0) as envs:
        envs.reset()
        for _ in range(2):
            envs.step(torch.zeros(2, envs.action_dim))
        envs.begin_step(torch.zeros(2, envs.action_dim))
        assert envs.stepping
        pids = envs.pids
    assert not any(alive(pid) for pid in pids)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, "died with exit code -9"), (signal.SIGSTOP, "did not answer within 1 s")]
)
def test_a_worker_killed_or_stopped_from_outside_is_named(number, said):
    with VectorEnv(COUNTER, 2, seed=0, timeout=1.0) as envs:
        envs.reset()
        pids = envs.pids
        os.kill(pids[1], number)
        with pytest.raises(UserError, match=rf"worker 1 \(Counter, pid {pids[1]}\) {said}"):
            envs.step(torch.zeros(2, 2))
    assert not any(alive(pid) for pid in pids)


def test_workers_ignore_ctrl_c(counters):
    counters.reset()
    for pid in counters.pids:
        os.kill(pid, signal.SIGINT)
    assert torch.isfinite(counters.step(torch.zeros(3, 2))["reward"]).all()


def test_what_cannot_be_built_is_said_at_once():
    for config, said in [
        ({**COUNTER, "lenghts": [1]}, "lenghts=.* is not an option of Counter. Did you mean 'lengths'"),
        ({"_target_": "worldmodels.envs.toy.Countr"}, "cannot be loaded"),
        ({"_target_": "broken_envs.Unbuildable"}, "no such asset"),
        ({"_target_": "broken_envs.Leaves"}, "SystemExit: 4 \\(broken_envs.py, line \\d+\\)"),
        ({"_target_": "worldmodels.envs.dmc.DMC", "task": "cheeta_run", "obs": "state"}, "Did you mean 'cheetah_run'"),
    ]:
        with pytest.raises(UserError, match=said):
            VectorEnv(config, 1, seed=0)


def test_more_workers_than_memory_has_room_for_are_refused(monkeypatch):
    monkeypatch.setattr("worldmodels.envs.probe.psutil.virtual_memory", lambda: SimpleNamespace(available=2**20))
    with pytest.raises(UserError, match=r"num_envs=3 processes of Counter take at least .* lower num_envs"):
        VectorEnv({"_target_": "worldmodels.envs.toy.Counter"}, 3, seed=0)


def test_an_environment_that_hangs_in_building_is_said(monkeypatch):
    monkeypatch.setattr("worldmodels.envs.vector.START_SECONDS", 1.5)
    with pytest.raises(UserError, match=r"HangsInBuilding could not be built within 1.5 s"):
        VectorEnv({"_target_": "broken_envs.HangsInBuilding"}, 1, seed=0, timeout=1.0)


def test_restoring_slowly_ends_in_new_episodes(monkeypatch):
    """Not in the end of a resumed run. The sentence tells how long it was waited, whichever is longer."""
    for timeout, least, waited in ((1.0, 1.5, "2 s"), (0.5, 1.5, "1.5 s")):
        monkeypatch.setattr("worldmodels.envs.vector.START_SECONDS", 60.0)
        with VectorEnv({"_target_": "broken_envs.SlowToRestore"}, 2, 0, timeout) as envs:
            envs.reset()
            envs.step(torch.zeros(2, 2))
            before, snapshots = envs.pids, envs.snapshot()
            monkeypatch.setattr("worldmodels.envs.vector.START_SECONDS", least)
            with pytest.raises(UserError, match=f"did not answer within {waited}; raise step_timeout"):
                envs.restore(snapshots)
            monkeypatch.setattr("worldmodels.envs.vector.START_SECONDS", 60.0)
            assert envs.reset()["is_first"].all()
            assert not set(envs.pids) & set(before)


@pytest.mark.parametrize(
    ("env", "rate"),
    [
        ({"_target_": "worldmodels.envs.dmc.DMC", "task": "walker_walk", "obs": "state", "action_repeat": 2}, 20),
        ({"_target_": "worldmodels.envs.gym.GymEnv", "id": "CartPole-v1", "obs": "state", "action_repeat": 4}, 12.5),
        ({"_target_": "worldmodels.envs.maze.Maze", "obs": "state"}, 12.5),
        ({"_target_": "worldmodels.envs.toy.Counter"}, None),
    ],
    ids=lambda x: x["_target_"].rpartition(".")[2] if isinstance(x, dict) else "",
)
def test_an_environment_tells_how_fast_it_is(env, rate):
    with VectorEnv(env, 1, 0) as envs:
        assert envs.frame_rate() == (rate and pytest.approx(rate))


def test_busy_workers_die_with_a_parent_that_is_killed(tmp_path):
    script = (
        f"import sys, torch\nsys.path[:0] = [{str(SUPPORT)!r}]\n"
        "from worldmodels.envs.vector import VectorEnv\n"
        "if __name__ == '__main__':\n"
        f"    envs = VectorEnv({{'_target_': 'broken_envs.Stubborn', 'path': {str(tmp_path)!r}}}, 2, 0)\n"
        "    envs.reset()\n    envs.step(torch.zeros(2, 2))\n"
    )
    (tmp_path / "main.py").write_text(script)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "main.py")])
    files = [tmp_path / f"pid{index}" for index in range(2)]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files), seconds=60)
    pids = [int(file.read_text()) for file in files]
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(alive(pid) for pid in pids), seconds=10)


def gym(id: str) -> dict:
    return {"_target_": "worldmodels.envs.gym.GymEnv", "id": f"odd_envs:{id}-v0", "obs": "state"}


def test_environments_may_start_processes_that_end_with_them(monkeypatch):
    """Where a worker ends politely, and where it is stopped and killed."""
    monkeypatch.setattr("worldmodels.envs.vector.CLOSE_SECONDS", 2.0)
    for ending in ("close", "kill"):
        with VectorEnv(gym("Parent"), 2, 0, timeout=30.0) as envs:
            children = envs.reset()["state"][:, 0].long().tolist()
            assert all(alive(pid) for pid in children)
            if ending == "kill":
                os.kill(envs.pids[0], signal.SIGSTOP)
        wait_for(lambda children=children: not any(alive(pid) for pid in children), seconds=15)


def test_workers_and_their_children_die_with_a_killed_parent(tmp_path):
    script = (
        f"import sys, time\nsys.path[:0] = [{str(SUPPORT)!r}]\n"
        "from worldmodels.envs.vector import VectorEnv\n"
        "if __name__ == '__main__':\n"
        f"    envs = VectorEnv({gym('Parent')!r}, 1, 0)\n"
        "    print(envs.pids[0], int(envs.reset()['state'][0, 0]), flush=True)\n    time.sleep(600)\n"
    )
    (tmp_path / "main.py").write_text(script)
    with subprocess.Popen([sys.executable, str(tmp_path / "main.py")], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        parent.kill()
    wait_for(lambda: not any(alive(pid) for pid in pids), seconds=10)


def test_a_parent_that_ends_without_closing_does_not_hang(tmp_path):
    script = (
        f"import sys\nsys.path[:0] = [{str(SUPPORT)!r}]\n"
        "from worldmodels.envs.vector import VectorEnv\n"
        "if __name__ == '__main__':\n"
        f"    envs = VectorEnv({gym('Odd')!r}, 1, 0)\n    envs.reset()\n    print(envs.pids[0], flush=True)\n"
    )
    (tmp_path / "main.py").write_text(script)
    done = subprocess.run([sys.executable, str(tmp_path / "main.py")], stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0
    wait_for(lambda: not alive(int(done.stdout)), seconds=10)


def test_successes_and_rewards_of_gymnasium_reach_the_rows():
    with VectorEnv(gym("Success"), 1, 0) as envs:
        assert envs.reset()["success"].tolist() == [-1]
        assert [envs.step(torch.zeros(1, 1))["success"].item() for _ in range(3)] == [0, 0, 1]
    with VectorEnv(gym("Bracketed"), 1, 0) as envs:
        envs.reset()
        assert envs.step(torch.zeros(1, 1))["reward"].tolist() == [2.0]


def test_workers_never_import_torch():
    code = (
        "import sys\n"
        "import worldmodels.envs.probe, worldmodels.envs.dmc, worldmodels.envs.gym, worldmodels.envs.toy\n"
        "assert 'torch' not in sys.modules and 'mujoco' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
