"""Options said once, in a signature: ``gamma: Annotated[float, Between(0, 1), "discount per decision"] = 0.99``.

:func:`validate` holds values against such a signature, :func:`checked` does so whenever an object is made, and
:func:`options_of` lists them for ``--help`` and the reference. Types, ranges (:mod:`worldmodels.common.markers`), words
(``Literal``) and a text for people are all there is to say. Imports no torch, as workers of environments do not.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Literal, TypeVar

from worldmodels.common.markers import (
    Ascending,
    AtLeast,
    Between,
    Count,
    Fields,
    Marker,
    MoreThan,
    MultipleOf,
    Odd,
    allowed,
    alternatives,
    describe,
    fields_of,
    is_a,
    markers,
    words_of,
)
from worldmodels.errors import MISSING, OptionError, near_match, shown

__all__ = [
    "Ascending",
    "AtLeast",
    "Between",
    "Count",
    "Fields",
    "MoreThan",
    "MultipleOf",
    "Odd",
    "checked",
    "inside",
    "options_of",
    "validate",
]

Target = TypeVar("Target")


@dataclass(frozen=True)
class Option:
    """One option of a signature. ``default`` is :data:`~worldmodels.errors.MISSING` where it must be given."""

    name: str
    kind: Any
    default: Any
    help: str

    @property
    def required(self) -> bool:
        """Whether the option must be given."""
        return self.default is MISSING


class _MismatchError(Exception):
    """A value is not what one alternative of an annotation allows."""


def options_of(target: Any) -> dict[str, Option]:
    """List the options of a function, class, dataclass or partial, by name and in order."""
    if isinstance(target, functools.partial):
        return {name: option for name, option in options_of(target.func).items() if name not in target.keywords}
    return _options_of(target)


@functools.cache
def _options_of(target: Any) -> dict[str, Option]:
    found = {}
    for name, parameter in _signature(target).parameters.items():
        kind = _evaluated(target, name, parameter.annotation)
        if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            default = MISSING if parameter.default is inspect.Parameter.empty else parameter.default
            notes = kind.__metadata__ if typing.get_origin(kind) is Annotated else ()
            found[name] = Option(name, kind, default, " ".join(note for note in notes if isinstance(note, str)))
        elif fields := fields_of(kind):
            found |= {key: option for key, option in options_of(fields.target).items() if key not in fields.given}
    return found


def _signature(target: Any) -> inspect.Signature:
    try:
        return inspect.signature(target)
    except ValueError:  # written in C: what it is given is its own to judge
        return inspect.Signature([inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)])


def open_ended(target: Any) -> bool:
    """Return whether a target takes any keyword. ``**options: Annotated[Any, Fields(X)]`` takes those of X alone."""
    further = [p for p in _signature(target).parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    return any(fields_of(_evaluated(target, p.name, p.annotation)) is None for p in further)


def _evaluated(target: Any, name: str, annotation: Any) -> Any:
    """Return an annotation as an object.

    It is Any where there is none, or one with names that only type checkers import.
    """
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, vars(_module_of(target, name)))
    except NameError:
        return Any


def _module_of(target: Any, name: str) -> types.ModuleType:
    """The module in which an argument was annotated."""
    if not inspect.isclass(target):
        return inspect.getmodule(inspect.unwrap(target))
    if is_dataclass(target):
        owner = next(c for c in target.__mro__ if name in vars(c).get("__annotations__", {}))
        return inspect.getmodule(owner)
    return inspect.getmodule(inspect.unwrap(target.__init__))


def validate(target: Any, options: Mapping[str, Any], later: Collection[str] | bool = ()) -> dict[str, Any]:
    """Hold options against a signature. Return them, 1e6 as a whole number where one is meant.

    Args:
        target: a function, class, dataclass or partial.
        options: what it is to be given.
        later: options that will be given by others, so that they may be missing; True: any.

    Raises:
        OptionError: an option that does not exist, is missing, of another type, out of range or no such word.
    """
    known = options_of(target)
    _require_known(target, options)
    for name, option in known.items():
        if option.required and name not in options and later is not True and name not in (later or ()):
            raise OptionError(name, MISSING, "must be given", allowed=allowed(option.kind))
    return {name: convert(name, value, known[name].kind) if name in known else value for name, value in options.items()}


def _require_known(target: Any, options: Mapping[str, Any]) -> None:
    """Refuse an option that a target does not have."""
    known = options_of(target)
    for name in [] if open_ended(target) else options:
        if name not in known:
            named = getattr(target, "func", target)
            what = getattr(named, "__qualname__", "this").removesuffix(".__init__")
            allowed_names = tuple(option for option in known if option != "self")
            reason = f"is not an option of {what.rpartition('.')[2]}"
            raise OptionError(name, options[name], reason, allowed=allowed_names, hint=near_match(name, known))


def convert(name: str, value: Any, kind: Any) -> Any:
    """Return ``value`` as an annotation has it. Raise :class:`OptionError` where it is nothing that this allows."""
    choices = sorted(alternatives(kind), key=lambda choice: choice[0] is not type(value))  # 1 stays 1 where both may be
    for base, notes in choices:
        try:
            return _converted(name, value, base, markers(notes))
        except _MismatchError:
            continue
    hint = near_match(value, words_of(kind)) if isinstance(value, str) else ""
    raise OptionError(name, value, f"must be {describe(kind)}", allowed=allowed(kind), hint=hint)


def _converted(name: str, value: Any, base: Any, ranges: list[Marker]) -> Any:
    """``value`` as one alternative has it."""
    origin = typing.get_origin(base) or base
    fields = next((marker for marker in ranges if isinstance(marker, Fields)), None)
    if origin is Literal:
        return _held(value, any(value == word and type(value) is type(word) for word in typing.get_args(base)))
    if base in (int, float):
        return _number(value, base, ranges)
    if base in (bool, str, type(None)):
        return _held(value, isinstance(value, base))
    if isinstance(value, Mapping) and fields is not None:
        with inside(name):
            return validate(fields.target, value, fields.given)
    if isinstance(value, Mapping) and inspect.isclass(base) and is_dataclass(base):
        with inside(name):
            return validate(base, value)
    plain = value is None or isinstance(value, numbers.Number | str | Mapping) or type(value) in (list, tuple)
    if not plain or base is Any or base is object or getattr(origin, "_is_protocol", False):
        return value  # modules, tensors, functions: theirs to judge
    if is_a(origin, Mapping):
        return _mapping(name, _held(value, isinstance(value, Mapping)), typing.get_args(base))
    if is_a(origin, Sequence) or is_a(origin, Set):
        items = _items(name, _held(value, isinstance(value, list | tuple)), origin, typing.get_args(base))
        return _held(items, all(marker.holds(items) for marker in ranges if isinstance(marker, Ascending)))
    return _held(value, not inspect.isclass(origin) or isinstance(value, origin))


def _held(value: Any, met: bool) -> Any:
    if not met:
        raise _MismatchError
    return value


def _number(value: Any, base: type, ranges: list[Marker]) -> Any:
    _held(value, isinstance(value, numbers.Real) and not isinstance(value, bool))
    _held(value, base is float or isinstance(value, numbers.Integral) or float(value).is_integer())
    _held(value, all(marker.holds(value) for marker in ranges))
    return value if isinstance(value, float) == (base is float) else base(value)


def _mapping(name: str, value: Mapping[str, Any], inner: tuple[Any, ...]) -> dict[str, Any]:
    with inside(name):
        return {key: convert(str(key), item, inner[1] if len(inner) == 2 else Any) for key, item in value.items()}


def _items(name: str, value: list | tuple, origin: type, inner: tuple[Any, ...]) -> list | tuple:
    each = [kind for kind in inner if kind is not Ellipsis] or [Any]
    if is_a(origin, tuple) and inner and Ellipsis not in inner:
        _held(value, len(value) == len(each))
    else:
        each = each[:1] * len(value)
    converted = []
    for item, kind in zip(value, each, strict=True):
        try:
            converted.append(convert(name, item, kind))
        except OptionError as error:
            if error.option != name:  # an option of a mapping that the list holds
                raise
            reason = f"holds {shown(item)}, which {error.reason}"
            raise OptionError(name, value, reason, allowed=error.allowed, hint=error.hint) from None
    return converted if isinstance(value, list) else tuple(converted)


@contextmanager
def inside(option: str) -> Iterator[None]:
    """Let errors about options in a mapping name the option that holds it, as in ``policy.min_std``."""
    try:
        yield
    except OptionError as error:
        raise error.inside(option) from None


def checked(target: Target) -> Target:
    """Validate whenever something is made: a decorator for ``__init__``, for functions and for dataclasses.

    So a wrong option is refused in a notebook as it is in a configuration.
    """
    if inspect.isclass(target):
        target.__init__ = checked(target.__init__)
        return target
    signature = inspect.signature(target)

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        _require_known(call, kwargs)
        bound, known = signature.bind(*args, **kwargs), options_of(call)
        for name, value in bound.arguments.items():
            if name in known:
                bound.arguments[name] = convert(name, value, known[name].kind)
        return target(*bound.args, **bound.kwargs)

    return typing.cast(Target, call)
