"""`suite=planning` at the smallest size: what it times and writes."""

from __future__ import annotations

import json

import pytest

from worldmodels.benchmarks import planning

SMALL = ["size.units=16", "dynamics.latent=16", "dynamics.hidden=16", "encoder.units=16", "denoiser.width=16"]


@pytest.mark.heavy
@pytest.mark.process  # the name of the processor is asked of another program
def test_every_planner_is_timed_with_a_plan_in_memory(tmp_path, monkeypatch):
    """The first plans of diffusion, made with nothing left of an earlier plan, are not among the timed ones."""
    kept = []
    inner = planning.build_planner

    def watched(*args, **options):
        planner = inner(*args, **options)
        act = planner.act
        planner.act = lambda *a: kept.append(bool(a[2].get("planned", [True])[0])) or act(*a)
        return planner

    monkeypatch.setattr(planning, "build_planner", watched)
    monkeypatch.setattr(planning, "SEARCH", planning.SEARCH | {"num_samples": 16, "num_elites": 4, "iterations": 1})
    to = tmp_path / "planning.json"
    names = ("mppi", "diffusion", "actor_critic")
    planning.measure(SMALL, repeats=2, only=names, envs=(1, 3), to=str(to))
    rows = json.loads(to.read_text())["planners"]
    assert [row["planner"] for row in rows] == list(names)
    assert all(row[key]["median"] > 0 for row in rows for key in ("1", "3", "one after another"))
    assert kept.count(False) == 2  # diffusion's first plans, for one and for three environments, which are not timed
