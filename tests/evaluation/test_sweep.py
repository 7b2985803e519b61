"""One setting over several values: what is played, what correlates, what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from toy_runs import script

from worldmodels.errors import UserError
from worldmodels.evaluation.report import play_held_out
from worldmodels.evaluation.scores import described
from worldmodels.evaluation.sweep import draw, numbers, rank_correlation, table
from worldmodels.runs.loading import load_run


def row(value, *returns, success=None):
    return {"value": value, **described(np.asarray([returns]), [0]), "success_rate": success}


def test_every_value_plays_the_same_episodes(finished_run, tmp_path):
    to, own = tmp_path / "sweep", "planner.replan_every=1"
    script("sweep")([f"run={finished_run}", "over=planner.num_samples", "values=4,8", own, "episodes=3", f"to={to}"])
    result = json.loads((to / "sweep.json").read_text())
    assert [len(row["returns"]) for row in result["rows"]] == [3, 3]
    for row in result["rows"]:
        run = load_run(finished_run, [own, f"planner.num_samples={row['value']}"])
        assert play_held_out(run, 3, 1000, explore=False).returns == row["returns"]
    assert (to / "sweep.md").read_text().count("| 4 |") == 1
    assert (to / "sweep.png").stat().st_size > 5_000


def test_ranks_of_values_and_returns_are_correlated():
    rising = [row("1", 5.0, 6.0), row("2", 7.0, 8.0), row("10", 9.0, 7.0)]
    assert rank_correlation(rising)["means"] == pytest.approx(1)
    assert 0 < rank_correlation(rising)["episodes"] < 1
    falling = [row(str(-float(one["value"])), *one["returns"]) for one in rising]
    assert rank_correlation(falling)["means"] == pytest.approx(-1)
    assert rank_correlation([row("ddpm", 1.0), row("dpm", 2.0)]) is None
    assert rank_correlation([row("1", 1.0), row("2", 1.0)]) is None
    assert numbers([row("1e-1", 0.0)]) == [0.1]


def test_words_are_drawn_where_there_are_no_numbers():
    result = {"run": "r", "over": "planner.acting.sampler", "episodes": 2, "rank_correlation": None}
    figure = draw(result | {"rows": [row("ddpm", 1.0, 2.0, success=0.5), row("dpm", 3.0, 3.0, success=1.0)]})
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["ddpm", "dpm"]
    assert list(figure.axes[1].lines[0].get_ydata()) == [50, 100]
    text = table(result | {"rows": [row("ddpm", 1.0, 2.0, success=0.5)]})
    assert "tells nothing of other trainings" in text
    assert "| ddpm | 1.5 | 1 seed | 0.5 | 50 % |" in text


@pytest.mark.parametrize("seeds", [3, 8])
def test_several_seeds_are_one_row(seeds):
    values = [np.random.default_rng(value).normal(value, 1, (seeds, 4)) for value in (1, 2)]
    rows = [
        {"value": str(n), **described(scores, list(range(seeds))), "success_rate": None}
        for n, scores in enumerate(values)
    ]
    result = {"run": "r", "over": "planner.gamma", "episodes": 4, "rank_correlation": None, "rows": rows}
    assert f"| {seeds} seeds: " in table(result)
    assert ("IQM" in table(result)) == (seeds == 8)
    axes = draw(result).axes[0]
    assert ("interval" in axes.get_ylabel()) == (seeds == 8)
    assert len(axes.lines) == 1 + seeds


@pytest.mark.process
def test_only_seeds_of_one_configuration_play_together(finished_run, tmp_path, said):
    text = (finished_run / "config.yaml").read_text()
    other = shutil.copytree(finished_run, tmp_path / "other")
    (other / "config.yaml").write_text(text.replace("\nseed: 0", "\nseed: 1", 1))
    to, runs = tmp_path / "sweep", f"run=[{finished_run},{other}]"
    script("sweep")([runs, "over=planner.num_samples", "values=4", "episodes=2", f"to={to}"])
    [row] = json.loads((to / "sweep.json").read_text())["rows"]
    assert row["seeds"] == [0, 1]
    assert len(row["seed_means"]) == 2
    (other / "config.yaml").write_text(text.replace("\nframes: 120", "\nframes: 240", 1))
    message = said.refusal("sweep", runs, "over=planner.num_samples", "values=4")
    assert "differ in more than their seed" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["over=planner.num_sample", "values=1"], "Did you mean 'planner.num_samples'"),
        (["over=planner.num_samples", "values=8,0"], "planner.num_samples=0 must be a whole number of at least 1"),
        (["over=planner.num_samples", "values=8,,"], "must be a list such as"),
        (["values=8"], "say which over"),
    ],
)
def test_mistakes_are_refused_before_anything_is_played(words, message, finished_run, monkeypatch):
    monkeypatch.setattr("worldmodels.evaluation.sweep.play_held_out", lambda *_, **__: pytest.fail("played"))
    with pytest.raises(UserError, match=message):
        script("sweep")([f"run={finished_run}", *words])
