"""Planners compared on one footing, models judged apart from planners, planners trained on frozen models."""

from __future__ import annotations

import json
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from planner_cases import seeded
from toy_runs import WORDS, script

from planners.gradient import Gradient
from planners.learning.learner import require_gradients
from worldmodels.agent import Agent
from worldmodels.errors import UserError
from worldmodels.evaluation.comparison import compared
from worldmodels.evaluation.comparison_report import BOUND, SIMULATOR, draw, label, table
from worldmodels.evaluation.comparison_rows import Entry, harder_searches, open_run_or_reason, references, words_of
from worldmodels.evaluation.model_metrics import balanced_error, correlate, relative_error
from worldmodels.evaluation.report import windows
from worldmodels.evaluation.rollout import EpisodeBatch
from worldmodels.evaluation.scores import described, interval
from worldmodels.runs.loading import load_run
from worldmodels.runs.seeds import by_configuration
from worldmodels.training.parts import parts
from worldmodels.training.run import train

SMALL_ACTOR = ("planner.imag_horizon=3",)
PLAIN = [word for word in WORDS if not word.startswith("planner.")]


@pytest.fixture(scope="module")
def learned_run(tmp_path_factory):
    """A run of an actor-critic, to be read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodels.training.run.score_finished", lambda *_: None)
        folder = tmp_path_factory.mktemp("learned") / "run"
        train([*PLAIN, "planner=actor_critic", *SMALL_ACTOR, f"run_dir={folder}"])
    return folder


def test_a_grid_is_played_and_written(learned_run, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodels.evaluation.model_metrics.SEQUENCES", 8)
    to = tmp_path / "compare"
    search = "num_samples=8 num_elites=4 iterations=1 plan_horizon=3 replan_every=2"
    guided = " ".join(f"search.{word}" for word in search.split()) + " policy_samples=2"
    planners = f"[mppi {search},actor_critic,mppi_actor_critic {guided}]"
    script("compare")([f"runs=[{finished_run},{learned_run}]", f"planners={planners}", "episodes=2", f"to={to}"])
    result = json.loads((to / "compare.json").read_text())
    rows = {(row["model"], row["planner"].split()[0]): row for row in result["rows"]}
    assert len(rows) == 2 * 3 + 2 + 5 + 1
    assert "has learned parts" in rows[str(finished_run), "actor_critic"]["reason"]
    assert len(rows[str(learned_run), "mppi_actor_critic"]["returns"]) == 2
    assert len(rows[SIMULATOR, "mppi"]["returns"]) == 2
    assert len(rows[SIMULATOR, "mppi_actor_critic"]["returns"]) == 2
    assert rows[SIMULATOR, "mppi_actor_critic"]["runs"] == [str(learned_run)]
    assert rows[None, "zero"]["interval"] is None  # of two episodes
    best = [max(row["returns"][start] for row in rows.values() if row["returns"]) for start in range(2)]
    assert rows[BOUND, BOUND]["returns"] == best
    share = rows[str(learned_run), "mppi_actor_critic"].get("of_simulator")
    if sum(rows[SIMULATOR, "mppi_actor_critic"]["returns"]) > sum(rows[None, "random"]["returns"]):
        assert share["interval"] is None  # of two episodes
    else:  # an untrained search may earn no more than random actions do
        assert share is None
    assert "of_simulator" not in rows[str(learned_run), "actor_critic"]
    assert result["planned_over_oracle"] == result["planned_over_simulator"] != []
    for path in (finished_run, learned_run):
        scores = result["quality"][str(path)]
        assert scores["errors"].keys() == {"latent", "reward", "pixels", "state", "cont"}
        assert all(len(curve) == 3 for curve in scores["errors"].values())
        assert all(-1 <= value <= 1 for value in scores["ranking"]["correlations"])
    assert (to / "compare.md").read_text().count("\n") > 15
    assert (to / "compare.png").stat().st_size > 10_000


def test_runs_of_different_environments_are_not_compared(finished_run, tmp_path, said):
    other = tmp_path / "other"
    (other).mkdir()
    text = (finished_run / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("action_dim: 2", "action_dim: 3", 1))
    assert "different environments" in said.refusal("compare", f"runs=[{finished_run},{other}]")
    (other / "config.yaml").write_text(text.replace("num_envs: 2", "num_envs: 1", 1))
    assert "no checkpoint" in said.refusal("compare", f"runs=[{finished_run},{other}]")  # the same environment
    assert "is named twice" in said.refusal("compare", f"runs=[{finished_run},{finished_run}]")
    assert "leave simulator=false out" in said.refusal(
        "compare", f"runs=[{finished_run}]", "bound=true", "simulator=false"
    )
    message = said.refusal("compare", f"runs=[{finished_run}]", "against=rendom")
    assert "against=rendom is no row" in message
    assert "Did you mean 'random'?" in message


def test_runs_that_differ_in_their_seed_alone_are_one_row(finished_run, tmp_path):
    """Nor do a folder of their own, other evaluations and more threads tell them apart."""
    text = (finished_run / "config.yaml").read_text()
    changes = {
        "s1": [("\nseed: 0", "\nseed: 1"), ("threads: 1", "threads: 2")],
        "s2": [("\nseed: 0", "\nseed: 2"), ("\n  episodes: 2", "\n  episodes: 3")],
        "longer": [("\nseed: 0", "\nseed: 3"), ("\nframes: 120", "\nframes: 240")],
        "again": [],
    }
    for name, pairs in changes.items():
        changed = text
        for old, new in pairs:
            assert old in changed, old
            changed = changed.replace(old, new, 1)
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(changed)
    found = by_configuration([str(finished_run), *(str(tmp_path / name) for name in changes)])
    assert [trainings.seeds for trainings in found] == [[0, 1, 2], [3], [0]]
    assert [trainings.name for trainings in found] == ["run", "longer", "again"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say which runs"),
        (["runs=[a]", "planer=[mppi]"], "Did you mean 'planners'?"),
        (["runs=[a,,b]"], "must be a path or a list of paths"),
        (["runs=[a]", "oracle=maybe"], "must be true or false"),
        (["runs=[a]", "bound=perhaps"], "must be true or false"),
        (["runs=[a]", "againts=random"], "Did you mean 'against'?"),
        (["runs=[nowhere]"], "is not a folder"),
    ],
)
def test_mistakes_are_one_sentence(words, message, said):
    assert message in said.refusal("compare", *words)


def rows_of(**returns):
    names = {"random": (None, "random"), "simulator": (SIMULATOR, "mppi"), "mine": ("runs/a", "mppi")}
    rows = []
    for key, value in returns.items():
        scores = np.asarray(value if isinstance(value[0], list) else [value])
        seeds = list(range(len(scores))) if key == "mine" else None
        model, planner = names[key]
        runs = ["runs/a"] if key == "mine" else []
        rows.append({"model": model, "planner": planner, "runs": runs, **described(scores, seeds)})
    return rows


def test_a_planner_is_measured_between_random_and_the_simulator():
    found = compared(rows_of(random=[10.0, 10.0], simulator=[110.0, 90.0], mine=[60.0, 50.0]), None)
    [mine] = [row for row in found if row["model"] == "runs/a"]
    assert mine["of_simulator"] == {"ratio": 0.5, "interval": None, "over": None}
    assert mine["of_bound"]["ratio"] == 0.5


def test_the_best_reached_says_on_each_start_by_what():
    found = compared(
        rows_of(random=[10.0, 10.0, 10.0], simulator=[30.0, 90.0, 20.0], mine=[[60.0, 5, 5], [9, 9, 40.0]]), None
    )
    assert found[-1]["returns"] == [60.0, 90.0, 40.0]
    assert found[-1]["by"] == ["mppi on a", "mppi: search on the simulator", "mppi on a"]
    text = table({"env": "x", "episodes": 3, "rows": found, "quality": {}})
    assert "Best reached, by starts: mppi on a (2), mppi: search on the simulator (1)." in text
    assert "2 seeds: 23.3, 19.3" in text


def test_intervals_cover_the_interquartile_mean():
    scores = torch.randn(40, generator=seeded()).tolist()
    [row] = rows_of(mine=[[score] for score in scores])
    middle = sorted(scores)[10:30]
    assert row["iqm"] == pytest.approx(sum(middle) / 20, abs=1e-6)
    assert row["interval"][0] < row["iqm"] < row["interval"][1]
    drawn = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert rows_of(mine=[[score] for score in scores]) == [row]
    assert np.random.get_state()[1].tolist() == drawn  # noqa: NPY002


def test_intervals_are_those_of_rliable():
    """Of rliable 1.2.0 with 50,000 resamples, noted once, for returns of this generator. None is told of few."""
    generator = np.random.default_rng(0)
    drawn = {n: generator.normal(100, 30, n) for n in (1, 2, 3, 5, 10, 20)}
    assert interval(drawn[20]) == pytest.approx((87.20, 110.84), abs=0.5)
    assert [interval(drawn[count]) for count in (1, 2, 3, 5)] == [None] * 4


def test_tables_say_what_is_missing():
    missing = {"model": "runs/a", "planner": "tdmpc", "returns": None, "reason": "it has learned parts"}
    rows = [*rows_of(random=[1.0, 2.0]), missing]
    result = {"env": "x", "episodes": 2, "rows": rows, "quality": {}}
    assert "| tdmpc on a | – | – | it has learned parts |" in table(result)
    assert "| random | 1.5 | none | 0.5 |" in table(result)
    assert "No differences are told: tdmpc on a has no returns." in table(result | {"against": "tdmpc on a"})
    assert label(rows[0]) == "random"
    assert len(draw(result).axes) == 1
    rows[0]["success_rate"] = 0.25
    assert " 25 % |" in table(result)


def test_there_is_an_upper_bound_whatever_was_asked_for(finished_run, monkeypatch):
    """No gradient leads through a simulator, and what is learned reads no state of it."""
    played = EpisodeBatch([3.0, 4.0], {"success": -torch.ones(2, 1)}, [1, 1])

    def oracle(env, planner, *_, **__):
        require_gradients("none" if isinstance(planner, Gradient) else "exact", False, "planner=mppi")
        return played

    monkeypatch.setattr("worldmodels.evaluation.comparison_rows.evaluate_oracle", oracle)
    monkeypatch.setattr("worldmodels.evaluation.comparison_rows.play_baseline", lambda *_: [1.0, 1.0])
    trainings = by_configuration([str(finished_run)])
    for planners, expected in {
        ("gradient",): [("gradient", None), ("mppi", [3.0, 4.0])],
        ("gradient", "actor_critic"): [("gradient", None), ("mppi", [3.0, 4.0])],
        ("gradient", "cem"): [("gradient", None), ("cem", [3.0, 4.0])],
        ("actor_critic",): [("mppi", [3.0, 4.0])],
    }.items():
        rows = references(trainings, list(planners), 2, 0, simulator=True, bound=False)
        assert [(row["planner"], row["returns"]) for row in rows if row["model"] == SIMULATOR] == expected
    rows = references(trainings, ["mppi num_samples=8", "gradient"], 2, 0, simulator=True, bound=True)
    first = "mppi num_samples=8"
    harder = [first, "gradient", f"{first} plan_horizon=6", f"{first} plan_horizon=12", f"{first} num_samples=64"]
    assert [row["planner"] for row in rows if row["model"] == SIMULATOR] == harder


def test_predicting_the_mean_errs_by_one():
    truth = torch.randn(300, 5, 4, generator=seeded())
    mean = truth.mean((0, 1)).expand_as(truth)
    torch.testing.assert_close(relative_error(mean, truth), torch.ones(5), atol=0.1, rtol=0)
    assert torch.equal(relative_error(truth, truth), torch.zeros(5))


def test_ranks_are_correlated_and_ties_left_out():
    actual = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [5.0, 5.0, 5.0], [1.0, 2.0, 3.0]])
    guess = torch.tensor([[10.0, 20.0, 30.0], [-3.0, -1.0, -2.0], [1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
    assert correlate(guess, actual) == pytest.approx([1.0, -1.0, 0.0])  # who predicts one value for all ranks nothing


def test_ends_count_as_much_as_all_else():
    truth = torch.tensor([[False, True], [False, False], [False, False], [False, False]])
    never = torch.zeros_like(truth)
    assert balanced_error(never, truth).tolist() == [0.0, 0.5]
    assert balanced_error(truth, truth).tolist() == [0.0, 0.0]
    assert balanced_error(~never, truth).tolist() == [1.0, 0.5]


def test_the_last_row_of_every_episode_is_in_a_window():
    rows = {"at": torch.arange(60).expand(3, -1)}
    episodes = EpisodeBatch([0.0] * 3, rows, [45, 50, 60])
    lasts = windows(episodes, 20, to_the_end=True)["at"][:, -1].tolist()
    assert sorted(lasts) == [19, 19, 19, 39, 39, 39, 44, 49, 59]
    assert len(windows(episodes, 20)["at"]) == 7


# Planners on frozen models, and on checkpoints that lack them


def test_a_planner_is_trained_on_a_frozen_model_and_resumed(finished_run, tmp_path, unscored):
    folder = tmp_path / "frozen"
    words = ["planner=actor_critic", *SMALL_ACTOR, f"run_dir={folder}"]
    train([f"world_model={finished_run}", *words])
    before, after = load_run(finished_run), load_run(folder)
    for one, other in zip(before.model.parameters(), after.model.parameters(), strict=True):
        assert torch.equal(one, other)
    untrained = load_run(folder, ["planner=random"]).cfg
    assert untrained.world_model == str(finished_run)
    actor = after.planner.actor.state_dict()
    train([f"resume={folder}", "frames=160"])
    resumed = load_run(folder)
    assert any(not torch.equal(actor[key], value) for key, value in resumed.planner.actor.state_dict().items())
    for one, other in zip(before.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_options_of_parts_are_left_behind_with_the_parts(finished_run, tmp_path, unscored):
    """As a run of experiment=tdmpc2 has them; the number of environments may change too."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("parts: null", "parts: {model.encoder: {lr: 1.0e-4}}", 1))
    folder = tmp_path / "frozen"
    words = ["planner=tdmpc", "planner.search.num_samples=32", "planner.search.num_elites=4", "env.num_envs=1"]
    train([f"world_model={run}", *words, f"run_dir={folder}"])
    assert parts(load_run(folder).cfg) == {"planner.learner.actor": {"eps": 1e-5}}


def test_nothing_to_learn_on_a_frozen_model_is_refused(finished_run, said):
    """Training planner=cem on a frozen world model is refused, and so is another environment for it."""
    message = said.refusal("train", f"world_model={finished_run}", "planner=cem")
    assert "planner=cem has nothing to learn on a frozen world model" in message
    assert "env cannot change" in said.refusal(
        "train", f"world_model={finished_run}", "planner=actor_critic", "env.size=32"
    )


def test_missing_learned_parts_are_refused_with_the_command(finished_run, said):
    """Evaluating a run with a planner that it never learned names the command that trains it."""
    message = said.refusal("evaluate", f"run={finished_run}", "planner=tdmpc")
    assert f"python scripts/train.py world_model={finished_run} planner=tdmpc" in message


@pytest.mark.process
def test_a_guided_search_takes_over_what_was_learned(learned_run):
    alone, guided = load_run(learned_run), load_run(learned_run, ["planner=mppi_actor_critic"])
    assert guided.cfg.planner.learner.imag_horizon == 3
    assert guided.cfg.planner.search.gamma == guided.cfg.planner.learner.gamma
    for key, value in alone.planner.state_dict().items():
        assert torch.equal(guided.planner.learner.state_dict()[key], value)
    longest, broader = harder_searches(str(learned_run), "mppi_actor_critic")[1:]
    search = load_run(learned_run, words_of(longest)).planner.search
    assert search.plan_horizon == 4 * guided.planner.search.plan_horizon
    search = load_run(learned_run, words_of(broader)).planner.search
    assert search.settings.num_samples == 8 * guided.planner.search.settings.num_samples
    assert harder_searches(str(learned_run), "gradient") == []
    load_run(learned_run, ["planner=mppi"])
    with pytest.raises(UserError, match="has learned parts"):
        load_run(learned_run, ["planner=tdmpc"])


@pytest.mark.process
def test_more_environments_than_memory_allows_are_refused(monkeypatch, said, tmp_path):
    monkeypatch.setattr("planners.search.memory_budget.free_bytes", lambda device: 1000)
    message = said.refusal("train", *WORDS, f"run_dir={tmp_path / 'run'}")
    assert "planning for 2 environments" in message
    assert "lower env.num_envs" in message


def too_much() -> RuntimeError:
    """What a CPU without so much memory says."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    return caught.value


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (too_much(), "planning for 2 environments takes more memory than there is"),
        (torch.OutOfMemoryError("CUDA out of memory"), "planning for 2 environments takes more memory than there is"),
        (FloatingPointError("A return is not finite."), "not finite. Lower optimizer.lr"),
    ],
)
def test_what_stops_a_plan_is_one_sentence(finished_run, monkeypatch, error, message):
    run = load_run(finished_run)
    monkeypatch.setattr(type(run.planner), "search", Mock(side_effect=error))
    with pytest.raises(UserError, match=message):
        Agent(2, run.model, True, seeded()).act(run.planner, torch.ones(2, dtype=torch.bool))


def test_the_planner_of_the_training_keeps_its_options(finished_run, tmp_path):
    kept = open_run_or_reason(Entry(str(finished_run), "mppi temperature=0.5"))
    assert (kept.cfg.planner.num_samples, kept.cfg.planner.temperature) == (8, 0.5)
    assert open_run_or_reason(Entry(str(finished_run), "cem")).cfg.planner.num_samples == 256


@pytest.mark.process
def test_policies_alone_are_refused_on_the_simulator(learned_run, said):
    message = said.refusal("evaluate", f"run={learned_run}", "model=simulator")
    assert "use one without learned parts" in message
