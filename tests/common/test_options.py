"""Options are held against the signature that says them, wherever an object is made from."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
import torch

from worldmodels.common.build import build
from worldmodels.common.markers import describe
from worldmodels.common.options import (
    Ascending,
    AtLeast,
    Between,
    Count,
    Fields,
    MoreThan,
    MultipleOf,
    checked,
    options_of,
    validate,
)
from worldmodels.errors import MISSING, OptionError, UserError


@dataclass(frozen=True)
class Inner:
    rate: Annotated[float, MoreThan(0)]
    wide: bool = False


class Thing:
    @checked
    def __init__(
        self,
        dim: int,
        gamma: Annotated[float, Between(0, 1, "high"), "discount per decision"] = 0.99,
        count: Annotated[int | None, AtLeast(1)] = None,
        word: Literal["filter", "obs"] = "filter",
        each: Sequence[Count] = (1,),
        span: Annotated[Sequence[Annotated[float, MoreThan(0)]], Ascending(2)] = (1.0, 2.0),
        size: Annotated[int, MultipleOf(16)] = 16,
        flag: bool = False,
        either: int | float = 1,
        inner: Annotated[Mapping[str, Any] | None, Fields(Inner)] = None,
        weight: torch.Tensor | None = None,
    ) -> None:
        if gamma == 0.5:
            raise OptionError("gamma", gamma, "must not be a half")
        self.gamma, self.count, self.either, self.inner, self.weight = gamma, count, either, inner, weight


WRONG = [
    ({"gamma": 1}, "gamma", (float, Between(0, 1, "high"))),
    ({"gamma": True}, "gamma", (float, Between(0, 1, "high"))),
    ({"gamma": float("nan")}, "gamma", (float, Between(0, 1, "high"))),
    ({"count": 0}, "count", (int, AtLeast(1), None)),
    ({"count": 1.5}, "count", (int, AtLeast(1), None)),
    ({"word": "obz"}, "word", ("filter", "obs")),
    ({"each": [1, 0]}, "each", (int, AtLeast(1))),
    ({"span": [2, 1]}, "span", (Sequence[Annotated[float, MoreThan(0)]],)),
    ({"span": [1.0]}, "span", (Sequence[Annotated[float, MoreThan(0)]],)),
    ({"span": (0.0, 1.0)}, "span", (float, MoreThan(0))),
    ({"size": 33}, "size", (int, MultipleOf(16))),
    ({"flag": 1}, "flag", (bool,)),
    ({"either": "many"}, "either", (int, float)),
    ({"inner": {"rate": 0}}, "inner.rate", (float, MoreThan(0))),
    ({"inner": {"rate": 1.0, "wyde": True}}, "inner.wyde", ("rate", "wide")),
]


@pytest.mark.parametrize(("options", "option", "allowed"), WRONG, ids=str)
@pytest.mark.parametrize("make", [Thing, lambda **o: build({"_target_": f"{__name__}.Thing", **o}, "a.b")])
def test_wrong_options_are_named_with_what_is_allowed(options, option, allowed, make):
    with pytest.raises(OptionError) as caught:
        make(dim=3, **options)
    assert caught.value.option == (option if make is Thing else f"a.b.{option}")
    assert caught.value.allowed == allowed


def test_numbers_are_of_the_type_that_is_meant():
    thing = Thing(dim=3.0, gamma=0, count=1e6)
    assert [type(x) for x in (thing.gamma, thing.count, thing.either)] == [float, int, int]
    assert type(Thing(dim=3, either=1.0).either) is float


def test_tensors_and_nothing_pass_untouched():
    weight = torch.ones(2)
    assert Thing(dim=3, weight=weight).weight is weight


def test_unknown_and_missing_options():
    with pytest.raises(OptionError) as caught:
        validate(Thing, {"dim": 1, "gama": 0.5})
    assert (caught.value.option, "Did you mean 'gamma'?" in str(caught.value)) == ("gama", True)
    with pytest.raises(OptionError) as caught:
        validate(Thing, {})
    assert (caught.value.option, caught.value.value) == ("dim", MISSING)
    assert validate(Thing, {}, later=True) == validate(Thing, {}, later=["dim"]) == {}
    assert validate(functools.partial(Thing, dim=1), {}) == {}


def test_an_unknown_option_is_named_beside_missing_ones():
    with pytest.raises(OptionError) as caught:
        Thing(dims=3)
    assert (caught.value.option, "is not an option of Thing. Did you mean 'dim'?" in str(caught.value)) == (
        "dims",
        True,
    )


def test_further_options_may_be_those_of_another_class():
    def target(own: int = 1, **options: Annotated[object, Fields(Inner)]) -> None: ...

    assert options_of(target).keys() == {"own", "rate", "wide"}
    assert validate(target, {"rate": 1}) == {"rate": 1.0}
    with pytest.raises(OptionError) as caught:
        validate(target, {"rate": 1.0, "wyde": True})
    assert caught.value.option == "wyde"


class Holder(SimpleNamespace):
    """Holds whatever it is given."""


def whole(text: str) -> int:
    return int(text)


def test_what_a_class_refuses_later_is_located_too():
    node = {"_target_": f"{__name__}.Thing", "_partial_": True, "gamma": 0.5}
    holder = build({"_target_": f"{__name__}.Holder", "core": node}, "planner")
    with pytest.raises(OptionError) as caught:
        holder.core(dim=1)
    assert caught.value.option == "planner.core.gamma"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.option) == (str(caught.value), "planner.core.gamma")


def test_a_class_that_fails_is_one_sentence():
    with pytest.raises(UserError, match=rf"^{__name__}.whole cannot be built as configured: .*\.$"):
        build({"_target_": f"{__name__}.whole", "text": "seven"}, "x")


def test_help_is_read_from_the_signature():
    assert options_of(Thing)["gamma"].help == "discount per decision"
    assert options_of(Thing)["dim"].required
    assert describe(options_of(Thing)["span"].kind) == "a list [a number above 0] of 2, ascending"


@pytest.mark.process
def test_workers_import_no_torch():
    code = "import worldmodels.envs.toy, worldmodels.envs.dmc, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
