"""Collecting, counting and scheduling: what the training loop adds between environments, replay and updates."""

from __future__ import annotations

import itertools
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from env_cases import single
from omegaconf import OmegaConf
from toy_runs import ENV, REST, UPDATES, WORDS, At, built, same, stop, trained

from planners.base import Planner
from worldmodels.config import load_config
from worldmodels.data.datamodule import UpdateSchedule
from worldmodels.errors import UserError
from worldmodels.runs.folders import AVERAGE, read_checkpoint
from worldmodels.runs.loading import load_run

pytestmark = pytest.mark.process

NOISY = ("env=linear_gaussian", "env.num_envs=3", "env.noise=0.2", "env.limit=7")


def collect(training, steps: int, planner: Planner | None = None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Rows [N, steps, ...] as they went into replay, and the features they were filtered to."""
    collector, tape, feats = training.data.dataset.collector, [], []
    extend = collector.replay.extend

    def record(rows: dict[str, torch.Tensor]) -> None:
        tape.append({key: value.clone() for key, value in rows.items()})
        feats.append(collector.agent.state.feat)
        extend(rows)

    collector.replay.extend = record
    for _ in range(steps):
        collector.step(planner or training.module.planner)
    collector.replay.extend = extend
    return {key: torch.stack([rows[key] for rows in tape], 1) for key in tape[0]}, torch.stack(feats, 1)


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Twenty steps of two staggered environments under a planner, by latents that take their mode."""
    with built(tmp_path_factory.mktemp("collected"), "trainer.acting_precision=fp32") as training:
        training.module.collecting[0].dynamics.sample = False
        rows, feats = collect(training, 20)
        yield training, rows, feats


def test_acting_filters_to_the_latents_of_training(collected):
    """Latents of the acting path are those of observing its rows, and an action one step late would show."""
    training, rows, feats = collected
    model, _ = training.module.acting
    ends = rows["is_last"]
    assert (ends.any(0) & ~ends.all(0)).any(), "episodes must be staggered"
    with torch.no_grad():
        rollout, _, _ = model.observe({**rows, "reset": rows["is_first"]}, model.initial(2))
    assert feats.std() > 0.01
    torch.testing.assert_close(feats, rollout.feat, rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # and the comparison notices an action that is one step late
        late = {**rows, "reset": rows["is_first"], "action": rows["action"].roll(1, dims=1)}
        other, _, _ = model.observe(late, model.initial(2))
    assert (other.feat - feats).abs().max() > 1e-3


def test_replay_holds_what_single_environments_give(collected):
    """Stored actions, which lead into the next row, give the stored rows when played in single environments."""
    training, _, _ = collected
    replay = training.data.dataset.replay
    stored = replay.sample(16, 20)  # as long as the stream: the only window of each environment
    # Actions as the policy chose them lead INTO the next row; where an episode begins there was none.
    for window in range(16):
        index = int(stored["state"][window, 0, 0])
        expected = single(config_env(training), 0, index, stored["action"][window, 1:])
        for t, row in enumerate(expected):
            for key in stored:
                np.testing.assert_array_equal(
                    stored[key][window, t].numpy(), np.float32(row[key]), err_msg=f"{key} {t}"
                )
    assert {int(index) for index in stored["state"][:, 0, 0]} == {0, 1}
    assert stored["is_first"][:, 1:].any()


def config_env(training) -> dict:
    return dict(load_config(list(WORDS)).env)


def test_decisions_frames_returns_and_lengths_are_counted(tmp_path):
    with built(tmp_path, "env._target_=sabotage.Repeating") as training:
        dataset = training.data.dataset
        collector = dataset.collector
        episodes = list(itertools.chain.from_iterable(collector.step(dataset.prefill_planner) for _ in range(15)))
        rows = training.data.dataset.replay.sample(1, 15)
    assert collector.decisions == 2 * 15 - 6  # three episodes have begun in each environment
    # Environment 0 ends after 5 and 3 steps, environment 1 after 3 and 7; the last step of each took two frames.
    assert collector.frames == 3 * collector.decisions - 4
    assert [(episode.length, episode.frames) for episode in episodes] == [(8, 17), (14, 25), (8, 45), (20, 53)]
    assert not rows["reward"][rows["is_first"]].any()
    # Arriving in step s of episode k gives 100 k + s and half the action.
    for episode, (k, steps) in zip(episodes, [(0, 3), (0, 5), (1, 3), (1, 7)], strict=True):
        middle = steps * 100 * k + steps * (steps + 1) / 2
        assert abs(episode.return_ - middle) <= steps / 2


def test_collecting__seeds_differ_by_index_and_repeat(tmp_path):
    """In a training, environments differ, the same seed gives the same states, and another seed gives others."""

    def run(name: str, seed: int) -> torch.Tensor:
        with built(tmp_path / name, *NOISY, f"seed={seed}") as training:
            return collect(training, 9)[0]["state"]

    one, again, other = run("a", 3), run("b", 3), run("c", 4)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0, 1:], one[1, 1:])


# When updates are due ------------------------------------------------------------------------------------------------


def test_the_schedule_pays_for_decisions_after_the_prefill_only():
    schedule = UpdateSchedule(prefill=100, decisions=400, train_ratio=512, steps_per_update=1024)
    assert [schedule.updates_due(n) for n in (0, 100, 101, 102, 103, 104)] == [0, 0, 0, 1, 1, 2]
    assert schedule.total == 150


def test_a_burst_of_updates_is_due_once_as_the_prefill_ends():
    schedule = UpdateSchedule(100, 400, 512, 1024, burst=7)
    assert [schedule.updates_due(n) for n in (0, 99, 100, 102)] == [0, 0, 7, 8]
    for decisions, due in ((50, 7), (100, 7), (200, 57)):  # resumed with other terms, before and after
        again = UpdateSchedule(100, 400, 256, 1024, burst=7)
        again.load_state_dict(schedule.state_dict(), decisions, schedule.updates_due(decisions))
        assert again.updates_due(max(decisions, 100)) == due


@pytest.mark.parametrize("terms", [(100, 512, 1024), (100, 1024, 1024), (300, 512, 1024), (0, 512, 512)])
def test_a_resumed_schedule_owes_nothing(terms):
    before = UpdateSchedule(100, 400, 512, 1024)
    prefill, ratio, steps = terms
    after = UpdateSchedule(prefill, 400, ratio, steps)
    after.load_state_dict(before.state_dict(), decisions=200, updates=before.updates_due(200))
    assert after.updates_due(200) == 50
    start = max(prefill, 200)
    assert after.updates_due(start + 20) - 50 == math.floor(20 * ratio / steps)
    again = UpdateSchedule(prefill, 400, ratio, steps)
    again.load_state_dict(after.state_dict(), decisions=240, updates=after.updates_due(240))
    assert again.updates_due(400) == after.updates_due(400)


class Tally(Planner):
    """Counts how often it is asked."""

    def __init__(self, planner: Planner) -> None:
        super().__init__(planner.action_dim, planner.discrete)
        self.planner, self.asked, self.memories = planner, 0, []

    def initial(self, n):
        return self.planner.initial(n)

    def _act(self, decision, memory):
        self.asked += 1
        self.memories.append(set(memory))
        return self.planner._act(decision, memory)


def test_updates_follow_decisions_without_debt(tmp_path):
    """When the prefill ends no updates are owed, and the planner takes over with a memory of its own."""
    with built(tmp_path) as training:
        dataset = training.data.dataset
        prefill, planner = Tally(dataset.prefill_planner), Tally(dataset.planner)
        dataset.prefill_planner, dataset.planner = prefill, planner
        counts = []
        for batch in dataset:
            assert batch["action"].shape == (4, 8, 2)
            counts.append((dataset.updates, dataset.collector.decisions))
    assert [updates for updates, _ in counts] == list(range(1, UPDATES + 1))
    # An update is made once it is paid for and before anything more is collected: at most two decisions a step.
    for updates, decisions in counts:
        assert updates * 32 <= (decisions - 60) * 16 < updates * 32 + 2 * 16
    # The planner takes over at the first row after the prefill, with a memory of its own.
    steps = prefill.asked
    assert 60 <= dataset_decisions(tmp_path, steps) < 62
    assert "plan" in planner.memories[0]
    assert "noise" in prefill.memories[0]


def dataset_decisions(folder: Path, steps: int) -> int:
    from worldmodels.data.replay import Replay

    rows = Replay.open(folder / "replay").sample(64, steps)
    firsts = {int(s[0, 0]): int(f.sum()) for s, f in zip(rows["state"], rows["is_first"], strict=True) if s[0, 2] == 0}
    return 2 * steps - sum(firsts.values())


def test_resuming_with_another_train_ratio_pays_from_there_on(tmp_path):
    trained(tmp_path, at=[At(5, stop)])
    seen = []
    ratio = ("train_ratio=32",)
    with built(tmp_path, *ratio) as training:
        training.data.load_state_dict(read_checkpoint(tmp_path)["OnlineData"])
        dataset = training.data.dataset
        before = dataset.collector.decisions
        seen = [(dataset.updates, dataset.collector.decisions) for _ in itertools.islice(dataset, 6)]
    assert seen[0][0] == 6
    for updates, decisions in seen:
        assert updates - 5 <= decisions - before < updates - 5 + 2


@pytest.mark.parametrize("context", ["none", "burn_in"])
def test_watching_and_evaluating_in_mid_training_change_nothing(tmp_path, context):
    from worldmodels.evaluation.rollout import evaluate

    words = ("frames=90", f"data.context={context}")
    quiet = trained(tmp_path / "a", *words, "trainer.video_every=1000", "trainer.log_every=1000")
    played, states = [], []

    def run_search(training) -> None:
        module, agent = training.module, training.data.dataset.collector.agent
        before = [agent.generator.get_state(), torch.get_rng_state(), agent.state.feat.clone()]
        weights = {key: value.clone() for key, value in module.state_dict().items()}
        for explore in (False, True):
            env = config_env(training)
            played.append(evaluate(env, *module.acting, 2, 1000, explore).returns)
        after = [agent.generator.get_state(), torch.get_rng_state(), agent.state.feat]
        states.append(all(torch.equal(one, other) for one, other in zip(before, after, strict=True)))
        states.append(same(weights, module.state_dict()))

    watched = trained(tmp_path / "b", *words, "trainer.video_every=3", at=[At(7, run_search)])
    assert all(states)
    assert len(played) == 2
    assert same(quiet, watched)


def test_averaged_weights_collect_and_are_loaded(tmp_path):
    """The collecting agent acts with the average of the weights, narrowed or not, and so does a run that is loaded."""

    def run_search(training) -> None:
        collecting, acting = training.module.collecting[0], training.module.acting[0]
        assert training.data.dataset.collector.agent.model is collecting
        assert collecting is not acting
        for ours, theirs in zip(collecting.parameters(), acting.parameters(), strict=True):
            assert torch.equal(ours, theirs.to(ours.dtype))

    weights = trained(tmp_path, "trainer.acting_precision=bf16", at=[At(UPDATES, run_search)])
    OmegaConf.save(load_config([*ENV, *REST]), tmp_path / "config.yaml")
    key = "dynamics.from_action.0.weight"
    loaded = load_run(tmp_path).model.state_dict()[key]
    assert torch.equal(loaded, weights[AVERAGE + "model." + key])
    assert not torch.equal(loaded, weights["model." + key])


def test_too_few_frames_for_any_update_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"frames=61 with prefill=60.*pays for no update"), built(tmp_path, "frames=61"):
        pass


# What no window or snapshot can be had of -----------------------------------------------------------------------------


def test_too_short_episodes_end_a_training_with_the_reason(tmp_path):
    """The error tells the window's steps and those of the longest episode."""
    with pytest.raises(UserError, match=r"no window of 8 steps: its longest episode .* has 4 "):
        trained(tmp_path, "data.cross_resets=false", "env.lengths=[3]")


@pytest.mark.parametrize(("length", "told"), [(500, 1), (12, 0)])
def test_episodes_that_never_end_are_told_after_the_prefill(tmp_path, caplog, length, told):
    trained(tmp_path, f"env.lengths=[{length}]", "frames=70")
    assert sum("not one episode of Counter has ended in" in message for message in caplog.messages) == told


def test_windows_of_one_step_leave_nothing_to_draw(tmp_path):
    trained(tmp_path, "data.length=1", "data.batch_size=32", "trainer.video_every=1", "frames=70")


def test_environments_that_cannot_be_saved_go_on(tmp_path, caplog):
    with built(tmp_path, "env._target_=sabotage.Fleeting") as training:
        collector = training.data.dataset.collector
        collect(training, 3)
        saved = collector.state_dict()
        assert saved["envs"] is None
        assert "the environments could not be saved (Environment worker 0 (Fleeting" in caplog.text
        assert len(collect(training, 3)[0]["reward"]) == 2


def test_environments_that_cannot_be_put_back_begin_again(tmp_path, caplog):
    with built(tmp_path, "env._target_=sabotage.Fleeting", "+env.saves=true") as training:
        collector = training.data.dataset.collector
        collect(training, 3)
        collector.load_state_dict(collector.state_dict())
        assert "the environments could not be put back (Environment worker 0 (Fleeting" in caplog.text
        rows, _ = collect(training, 3)
        assert rows["is_first"][:, 0].all()


def test_checkpoint_survives_environments_dying_on_restore(tmp_path):
    """Environments that die of being put back end the training, and the file stays as it was."""
    words = ("env._target_=sabotage.Fleeting", "+env.saves=true", "+env.dies=true")
    trained(tmp_path, *words, at=[At(5, stop)])
    file = tmp_path / "checkpoints" / "last.ckpt"
    before = file.read_bytes()
    with pytest.raises(UserError, match="died with exit code 7"):
        trained(tmp_path, *words, checkpoint=str(file))
    assert file.read_bytes() == before


@pytest.mark.parametrize(("steps", "told"), [(7, False), (6, True)])
def test_plans_that_no_episode_is_long_enough_for_are_told_once(steps, told, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("worldmodels"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        trained(tmp_path, *ENV, f"env.lengths=[{steps}]", "planner=diffusion", "planner.plan_horizon=7",
                "denoiser.width=16", "planner.acting.steps=2", at=[At(3, stop)])  # fmt: skip
    assert caplog.text.count("has the 8 rows that a plan takes to be learned from, the longest has 7") == told
