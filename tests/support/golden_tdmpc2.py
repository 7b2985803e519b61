"""A TD-MPC2 of the golden file's sizes, with its weights: one table from its names to ours."""

from __future__ import annotations

from functools import partial

import torch
from golden import Golden, Source
from torch import Tensor

from dynamics.implicit import Implicit
from planners.guided import Guided
from planners.mppi import MPPI
from planners.tdmpc import TDLearner
from worldmodels.heads.transition import TerminationHead, TransitionRewardHead
from worldmodels.model import WorldModel
from worldmodels.nets.encoders import Encoder
from worldmodels.nets.layers import NetStyle

STYLE = NetStyle(act="mish")
LATENT, UNITS, ACTIONS, HORIZON = 32, 32, 3, 3
STATE = {"state": ((5,), torch.float32)}


def build(episodic: bool) -> tuple[WorldModel, Guided]:
    """Return model and planner with weights of their own. No dropout, as nothing random is compared."""
    encoder = Encoder(STATE, 2, 16, 1, squash=False, style=STYLE)
    dynamics = Implicit(16, ACTIONS, LATENT, UNITS, unroll=HORIZON, rho=0.5, style=STYLE)
    heads = {
        "reward": TransitionRewardHead(LATENT, ACTIONS, UNITS, 2, 101, 10.0, style=STYLE),
        "cont": TerminationHead(LATENT, ACTIONS, UNITS, 2, episodic, style=STYLE),
    }
    learner = partial(
        TDLearner,
        LATENT,
        policy={"units": UNITS, "layers": 2, "min_std": 4.5399929762484854e-05, "max_std": 7.38905609893065},
        q={"units": UNITS, "layers": 2, "num_q": 5, "num_bins": 101, "symlog_limit": 10.0, "dropout": 0.0},
        style=STYLE,
    )
    search = partial(
        MPPI,
        plan_horizon=HORIZON,
        num_samples=24,
        num_elites=6,
        iterations=6,
        temperature=2.0,
        normalize_values=False,
        execute="elite",
        min_std=0.05,
        max_std=2.0,
    )
    planner = Guided(ACTIONS, False, learner, search, policy_samples=4)
    return WorldModel(encoder, dynamics, heads, {}), planner


def loaded(golden: Golden, episodic: bool = False) -> tuple[WorldModel, Guided]:
    """Return model and planner with the golden weights, as they act."""
    model, planner = build(episodic)
    golden.load(model, model_table(episodic))
    golden.load(planner.learner, learner_table())
    return model.eval(), planner.eval()


def batch(golden: Golden) -> dict[str, Tensor]:
    """Return the golden sequences, time second, each action in the row that it led into."""
    first = torch.tensor([True, False, False, False]).expand(4, -1)
    rows = {key: rows_after(golden[f"in/{key}"]) for key in ("action", "reward", "terminated")}
    return {
        "state": golden["in/obs"].transpose(0, 1),
        "action": rows["action"],
        "reward": rows["reward"].squeeze(-1),
        "is_terminal": rows["terminated"].squeeze(-1) > 0,
        "is_first": first,
        "reset": first,
        "is_last": torch.zeros_like(first),
    }


def rows_after(x: Tensor) -> Tensor:
    """[H, B, ...] of steps as [B, H + 1, ...] of the rows they led into."""
    return torch.cat([torch.zeros_like(x[:1]), x]).transpose(0, 1)


def plain(ours: str, theirs: str) -> dict[str, Source]:
    """A linear layer."""
    return {f"{ours}.weight": Source(f"{theirs}/weight"), f"{ours}.bias": Source(f"{theirs}/bias")}


def normed(ours: str, theirs: str) -> dict[str, Source]:
    """A LayerNorm."""
    return {f"{ours}.weight": Source(f"{theirs}/scale"), f"{ours}.bias": Source(f"{theirs}/shift")}


def dense(ours: str, theirs: str, layers: int) -> dict[str, Source]:
    """Hidden layers: linear and norm."""
    table = {}
    for i in range(layers):
        table |= plain(f"{ours}.{i}.0", f"{theirs}/lin{i}") | normed(f"{ours}.{i}.1", f"{theirs}/ln{i}")
    return table


def ensemble(ours: str, theirs: str) -> dict[str, Source]:
    """Five Q functions side by side, whose maps are transposed here."""
    table = {}
    for i, name in enumerate(("hidden.0", "hidden.1", "out")):
        table[f"{ours}.{name}.weight"] = Source(f"{theirs}/lin{i}/weight", lambda w: w.mT)
        table[f"{ours}.{name}.bias"] = Source(f"{theirs}/lin{i}/bias")
    for i in range(2):
        table[f"{ours}.norms.{i}.gain"] = Source(f"{theirs}/ln{i}/scale")
        table[f"{ours}.norms.{i}.shift"] = Source(f"{theirs}/ln{i}/shift")
    return table


def model_table(episodic: bool) -> dict[str, Source]:
    """Names in the model."""
    table = dense("encoder.state", "enc", 1)
    table |= plain("dynamics.encode.0", "enc/lin1") | normed("dynamics.encode.1", "enc/ln1")
    table |= dense("dynamics.transition.0", "dyn", 2) | plain("dynamics.transition.0.2", "dyn/lin2")
    table |= normed("dynamics.transition.1", "dyn/ln2")
    heads = {"reward": "reward"} | ({"cont": "termination"} if episodic else {})
    for ours, theirs in heads.items():
        table |= dense(f"heads.{ours}.net", theirs, 2) | plain(f"heads.{ours}.net.2", f"{theirs}/lin2")
    return table


def learner_table() -> dict[str, Source]:
    """Names in policy and Q functions."""
    table = dense("actor.net", "pi", 2) | ensemble("q.nets", "q") | ensemble("target.nets", "q_target")
    for name, half in (("mean", slice(0, ACTIONS)), ("spread", slice(ACTIONS, None))):
        for part in ("weight", "bias"):
            table[f"actor.out.{name}.{part}"] = Source(f"pi/lin2/{part}", lambda x, half=half: x[half])
    return table
