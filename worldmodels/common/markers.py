"""Ranges and kinds of options beyond their types: markers for ``typing.Annotated``, and their words."""

from __future__ import annotations

import inspect
import itertools
import types
import typing
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union


def _bound(number: int | float) -> str:
    return f"{int(number)}" if float(number).is_integer() else f"{number:g}"


@dataclass(frozen=True)
class AtLeast:
    """A number not below ``low``."""

    low: int | float

    def holds(self, value: int | float) -> bool:
        """Return whether a number lies in the range."""
        return value >= self.low

    def __str__(self) -> str:
        return f"of at least {self.low:g}"


@dataclass(frozen=True)
class MoreThan:
    """A number above ``low``."""

    low: int | float

    def holds(self, value: int | float) -> bool:
        """Return whether a number is one."""
        return value > self.low

    def __str__(self) -> str:
        return f"above {self.low:g}"


@dataclass(frozen=True)
class Between:
    """A number between two bounds. ``open`` names those that do not belong: ``low``, ``high``, ``both`` or none."""

    low: int | float
    high: int | float
    open: Literal["", "low", "high", "both"] = ""

    def holds(self, value: int | float) -> bool:
        """Return whether a number is one."""
        above = value > self.low if self.open in ("low", "both") else value >= self.low
        return above and (value < self.high if self.open in ("high", "both") else value <= self.high)

    def __str__(self) -> str:
        if not self.open:
            return f"from {_bound(self.low)} to {_bound(self.high)}"
        left, right = "(" if self.open in ("low", "both") else "[", ")" if self.open in ("high", "both") else "]"
        return f"in {left}{_bound(self.low)}, {_bound(self.high)}{right}"


@dataclass(frozen=True)
class MultipleOf:
    """A whole number above 0 that ``step`` divides."""

    step: int

    def holds(self, value: int | float) -> bool:
        """Return whether a number is one."""
        return value > 0 and value % self.step == 0

    def __str__(self) -> str:
        return f"that is a positive multiple of {self.step}, such as {self.step} or {2 * self.step}"


@dataclass(frozen=True)
class Odd:
    """An odd whole number above 0."""

    def holds(self, value: int | float) -> bool:
        """Return whether a number is one."""
        return value > 0 and value % 2 == 1

    def __str__(self) -> str:
        return "that is odd and above 0"


@dataclass(frozen=True)
class Ascending:
    """A list of ``length`` numbers that nowhere fall."""

    length: int

    def holds(self, value: Sequence[int | float]) -> bool:
        """Return whether a list is one."""
        return len(value) == self.length and all(low <= high for low, high in itertools.pairwise(value))

    def __str__(self) -> str:
        return f"of {self.length}, ascending"


@dataclass(frozen=True)
class Fields:
    """A mapping of options for ``target``, all but those that its owner gives itself."""

    target: Any
    given: tuple[str, ...] = ()


Count = Annotated[int, AtLeast(1)]
"""How many there are of what must be there."""
Marker = AtLeast | MoreThan | Between | MultipleOf | Odd | Ascending | Fields
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", type(None): "null"}


def alternatives(kind: Any, notes: tuple[Any, ...] = ()) -> list[tuple[Any, tuple[Any, ...]]]:
    """List (type, notes) of everything that an annotation allows. Notes of a union belong to each of its types."""
    if typing.get_origin(kind) is Annotated:
        return alternatives(kind.__origin__, (*kind.__metadata__, *notes))
    if typing.get_origin(kind) in (Union, types.UnionType):
        return [found for part in typing.get_args(kind) for found in alternatives(part, notes)]
    if isinstance(kind, TypeVar):
        return [(Any, notes)]
    return [(type(None) if kind is None else kind, notes)]


def markers(notes: tuple[Any, ...]) -> list[Marker]:
    """Return the markers among an annotation's notes. Texts are for people."""
    return [note for note in notes if isinstance(note, Marker)]


def fields_of(kind: Any) -> Fields | None:
    """The marker that says whose options a mapping, or further keywords, hold."""
    return next((note for _, notes in alternatives(kind) for note in notes if isinstance(note, Fields)), None)


def words_of(kind: Any) -> tuple[Any, ...]:
    """The words that an annotation allows by ``Literal``."""
    literals = [base for base, _ in alternatives(kind) if typing.get_origin(base) is Literal]
    return tuple(word for literal in literals for word in typing.get_args(literal))


def allowed(kind: Any) -> tuple[Any, ...]:
    """Return what an annotation allows, as facts: words, types and markers, None for null."""
    found: list[Any] = []
    for base, notes in alternatives(kind):
        found += typing.get_args(base) if typing.get_origin(base) is Literal else [base]
        found += markers(notes) if base in (int, float) else []
    return tuple(None if item is type(None) else item for item in found)


def describe(kind: Any) -> str:
    """Say what an annotation allows: ``a whole number of at least 1 or null``."""
    parts = list(dict.fromkeys(_described(base, notes) for base, notes in alternatives(kind)))
    if any(part.startswith("a number") for part in parts):  # which whole ones are too
        parts = [part for part in parts if not part.startswith("a whole number")]
    return " or ".join(parts)


def _described(base: Any, notes: tuple[Any, ...]) -> str:
    origin = typing.get_origin(base) or base
    if origin is Literal:
        words = typing.get_args(base)
        return ("one of " if len(words) > 1 else "") + ", ".join(map(str, words))
    if base in WORDS:
        ranges = [str(note) for note in markers(notes)] if base in (int, float) else []
        return " ".join([WORDS[base], *([" and ".join(ranges)] if ranges else [])])
    if is_a(origin, Mapping) or (inspect.isclass(base) and is_dataclass(base)):
        return "a mapping {name: value}"
    if is_a(origin, Sequence) or is_a(origin, Set):
        inner = [kind for kind in typing.get_args(base) if kind is not Ellipsis]
        order = [f" {note}" for note in markers(notes) if isinstance(note, Ascending)]
        return f"a list [{', '.join(describe(kind) for kind in inner) or '…'}]{''.join(order)}"
    return "anything" if base is Any else f"a {getattr(origin, '__name__', origin)}"


def is_a(kind: Any, parent: type) -> bool:
    """Return whether ``kind`` is a class, and one of ``parent``'s."""
    return inspect.isclass(kind) and kind is not Any and issubclass(kind, parent)
