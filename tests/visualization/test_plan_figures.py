"""What a planner has in mind, as people look at it."""

from __future__ import annotations

import pytest
import torch
from pictures import assert_animated
from PIL import Image
from planner_cases import build, seeded, world
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_runs import WORDS

from planners.base import PlanInfo
from worldmodels.model import Trajectory
from worldmodels.training.run import train
from worldmodels.visualization.plan_figures import candidates_of, values_along

PLAIN = [word for word in WORDS if not word.startswith("planner.")]
SMALL_SEARCH = ("num_samples=8", "num_elites=2", "iterations=1", "replan_every=2")


def trajectory(reward, cont, feat_dim=1):
    steps = len(reward)
    feat = torch.arange(steps + 1.0)[None, :, None].expand(-1, -1, feat_dim)
    return Trajectory(feat, torch.zeros(1, steps, 1), torch.tensor([reward]), torch.tensor([cont]))


def test_values_along__sums_rewards_to_come_without_a_critic():
    """Rewards still to come count as far as the episode is foreseen to go on."""
    model, _ = world(False)
    values = values_along(build("mppi", model), trajectory([1.0, 2.0, 4.0], [1.0, 0.5, 0.0]), seeded())
    assert values.tolist() == [1 + 2 + 0.5 * 4, 2 + 0.5 * 4, 0.5 * 4, 0.0]


def test_with_a_value_it_is_the_learned_one():
    model, _ = world(False)
    planner = build("actor_critic", model)
    planner.critic.net[-1].weight.data.normal_(generator=seeded())
    imagined = trajectory([0.0, 0.0], [1.0, 1.0], model.feat_dim)
    values = values_along(planner, imagined, seeded())
    torch.testing.assert_close(values, planner.critic(imagined.feat[0]))
    assert values.unique().numel() == 3


def test_the_best_candidates_are_drawn_last():
    values = torch.tensor([[3.0, 1.0, 2.0]])
    candidates = torch.arange(3.0)[None, :, None, None].expand(1, 3, 4, 2)  # each named by its number
    lines, shown = candidates_of(PlanInfo(candidates[:, 0], candidates, values), 1)
    assert shown.tolist() == [1.0, 2.0, 3.0]
    assert [line[0].tolist() for line in lines] == [[0, 1], [0, 2], [0, 0]]


@pytest.fixture(scope="module", params=["tdmpc dynamics=implicit", "gradient"])
def looked_at(request, tmp_path_factory):
    """A run of a planner, scored as every training is."""
    planner, *more = request.param.split()
    place = "" if planner == "gradient" else "search."
    search = SMALL_SEARCH if planner != "gradient" else ("iterations=2", "restarts=2", "replan_every=2")
    words = [f"planner.{place}{word}" for word in (*search, "plan_horizon=3")]
    words += [f"planner={planner}", *more] + (["planner.policy_samples=2"] if place else [])
    folder = tmp_path_factory.mktemp("looked") / planner
    train([*PLAIN, *words, "env.lengths=[25]", f"run_dir={folder}"])  # long enough for one plan in its middle
    return folder


@pytest.mark.process
def test_every_searching_planner_shows_its_plan(looked_at):
    """Pictures beside what happened are among the events, and as a file and an animation in the folder."""
    events = EventAccumulator(str(looked_at), size_guidance={"images": 0})
    events.Reload()
    tags = {tag for tag in events.Tags()["images"] if tag.startswith(("plan/", "planner/"))}
    drawn = {"plan/candidates", "plan/chosen", "plan/predicted_vs_actual", "plan/imagined_vs_observed"}
    assert tags == drawn
    with Image.open(looked_at / "plan.png") as image:
        assert image.format == "PNG"
    assert_animated((looked_at / "plan.gif").read_bytes(), 4)
    assert (looked_at / "evaluation.json").is_file()
