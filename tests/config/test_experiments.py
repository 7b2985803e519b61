"""Published protocols are made of words as everything is: another backbone or planner may take the place of theirs."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from model_cases import ACTION, STATE
from places import CONFIGS

from worldmodels.config import load_config
from worldmodels.config.departures import departures
from worldmodels.errors import UserError
from worldmodels.factory import build_model
from worldmodels.runs.edit import override
from worldmodels.training.datasets import rows_kept
from worldmodels.training.parts import work_out_discounts
from worldmodels.training.setup import Spaces, build_module

PRESETS = ("dreamerv3", "dreamerv3_state", "tdmpc2", "tdmpc2_pixels")
PROTOCOLS = (*PRESETS, "tdmpc2_cpu", "dreamer_cpu")
SWAPS = ("dynamics=rssm", "dynamics=ssm", "planner=actor_critic", "planner=mppi", "planner=diffusion", "planner=tdmpc")


def rates(cfg) -> dict[str, tuple[float, float]]:
    """Learning rate and epsilon of every weight that learns, as built and as its losses are scaled."""
    side, channels = cfg.env.get("size"), 3 * cfg.env.get("stack", 1)
    observations = STATE if cfg.env.obs == "state" else {"pixels": ((channels, side, side), torch.uint8)}
    work_out_discounts(cfg.planner, 500)
    model = build_model(cfg, observations, ACTION)
    module = build_module(cfg, Path(), model, Spaces(observations, ACTION, False))
    names = {id(p): name for name, p in module.named_parameters()}
    groups = module.configure_optimizers().param_groups
    return {names[id(p)]: (group["lr"], group["eps"]) for group in groups for p in group["params"]}


@pytest.mark.heavy
@pytest.mark.parametrize(("protocol", "swap"), [*product(PROTOCOLS, SWAPS)])
def test_any_word_may_stand_in_a_protocol(protocol, swap):
    small = "encoder.depth=8" if protocol == "tdmpc2_pixels" else "env.size=32"  # 128 numbers, as xxs has
    cfg = load_config([f"experiment={protocol}", swap, "size=xxs", small])
    assert rates(cfg)
    assert ("consistency" in cfg.dynamics.loss_scales) == (cfg.choices.dynamics == "implicit")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_built_as_it_stands(preset):
    """At its own size, but for 200 M weights, and with a replay that its own limit allows."""
    small = ["size=1m"] if preset == "dreamerv3" else []
    cfg = load_config([f"experiment={preset}", *small])
    assert departures(load_config([f"experiment={preset}"])) == []
    assert rates(cfg)
    rows, size = rows_kept(cfg, cfg.env.action_repeat), 1
    assert rows <= 1.1 * cfg.frames / cfg.env.action_repeat + cfg.env.num_envs
    if cfg.env.obs == "pixels":
        size = 3 * cfg.env.stack * cfg.env["size"] ** 2
    kept = 4 * (cfg.size.deter + cfg.size.groups * cfg.size.classes) if cfg.data.context == "latent" else 0
    assert rows * (size + kept) / 2**30 < cfg.data.limit_gib


@pytest.mark.parametrize("words", [["optimizer=laprop"], ["optimizer=adam"], ["latent=gaussian", "dynamics=rssm"]])
def test_a_preset_takes_another_optimizer_or_latent(words):
    assert rates(load_config(["experiment=tdmpc2", "size=xxs", *words]))


def test_a_protocol_of_another_algorithm_is_refused():
    with pytest.raises(UserError, match=r"protocol=scores is how DreamerV3 plays"):
        load_config(["experiment=tdmpc2", "protocol=scores"])


def test_one_rate_lowered_on_a_run_is_every_rate():
    """A run's configuration is kept resolved: a rate that was not asked for must not stay behind."""
    run = load_config(["dynamics=implicit", "size=xxs", "env.obs=state"])
    assert {rate for rate, _ in rates(override(run, ["optimizer.lr=1e-5"])).values()} == {1e-5}


def test_every_experiment_is_composed():
    for path in (CONFIGS / "experiment").glob("*.yaml"):
        assert load_config([f"experiment={path.stem}"]).procedure


def test_rates_of_tdmpc2_are_the_published_ones():
    """Encoder 0.3 times the others', its policy's epsilon 1e-5."""
    found = rates(load_config(["experiment=tdmpc2", "size=xxs"]))
    own = {
        name: {v for k, v in found.items() if k.startswith(name)} for name in ("model.encoder", "model.dynamics.enc")
    }
    assert own == {"model.encoder": {(9e-5, 1e-8)}, "model.dynamics.enc": {(9e-5, 1e-8)}}
    assert {v for k, v in found.items() if k.startswith("planner.learner.actor")} == {(3e-4, 1e-5)}
    slow = ("model.encoder", "model.dynamics.enc", "planner.learner.actor")
    assert {v for k, v in found.items() if not k.startswith(slow)} == {(3e-4, 1e-8)}
