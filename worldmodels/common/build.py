"""Nodes of a configuration made into objects: ``_target_`` names what to call, the rest are its options.

As Hydra's ``instantiate``, but options are held against the signature first, errors say where in the configuration the
wrong one stands, and what is given beside them is not turned into configuration objects. Imports no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from hydra.utils import get_object

from worldmodels.common.options import validate
from worldmodels.common.trust import reach, require_nameable, require_target
from worldmodels.errors import OptionError, UserError, brief

TARGET, PARTIAL = "_target_", "_partial_"


class Recipe(functools.partial):
    """Call that lacks options, as ``_partial_: true`` makes it. Its errors say where the others stand."""

    path: str = ""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call with the options that were missing."""
        try:
            return super().__call__(*args, **kwargs)
        except OptionError as error:
            raise error.with_path(self.path) from None


def build(node: Mapping[str, Any], path: str = "", **given: Any) -> Any:
    """Call what a node names, with its options and those ``given``. Nodes within it come first, in order.

    Args:
        node: plain containers.
        path: where the node stands, for messages.
        given: further options, any objects. They come before the node's own.

    Raises:
        UserError: nothing of that name; an option that is wrong; a call that fails with a TypeError or ValueError.
    """
    target, options = _read(node, path)
    options = _validated(target, {**options, **given}, path)
    try:
        return target(**options)
    except OptionError as error:
        raise error.with_path(path) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{node[TARGET]} cannot be built as configured: {brief(error)}.") from error


def find(name: str, path: str = "") -> Callable[..., Any]:
    """Return what a ``_target_`` names, if it is what a configuration may name."""
    return find_at(name, f"{path}.{TARGET}" if path else TARGET)


def find_at(name: str, place: str) -> Callable[..., Any]:
    """Return what a key names that is no ``_target_``, as ``procedure`` is none."""
    require_nameable(name, place)
    reach(name)
    try:
        found = get_object(name)
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        raise UserError(f"{place}={name} cannot be loaded: {reason}.", option=place, value=name) from error
    require_target(found, name, place)
    return found


def require_nameable_targets(node: Any, path: str = "") -> None:
    """Refuse a name anywhere in plain containers that nothing may be built from. Nothing is imported."""
    if isinstance(node, Mapping):
        if isinstance(node.get(TARGET), str):
            require_nameable(node[TARGET], f"{path}.{TARGET}" if path else TARGET)
        for key, value in node.items():
            require_nameable_targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for item in node:
            require_nameable_targets(item, path)


def _read(node: Mapping[str, Any], path: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    if not isinstance(node.get(TARGET), str):
        raise UserError(f"{path or 'this'} has no _target_: name its class, for example worldmodels.envs.dmc.DMC.")
    own = {key: value for key, value in node.items() if key not in (TARGET, PARTIAL)}
    return find(node[TARGET], path), {
        key: _built(value, f"{path}.{key}" if path else key) for key, value in own.items()
    }


def _built(value: Any, path: str) -> Any:
    """An option with whatever nodes it holds built."""
    if isinstance(value, Mapping):
        if TARGET not in value:
            return {key: _built(item, f"{path}.{key}") for key, item in value.items()}
        if not value.get(PARTIAL):
            return build(value, path)
        target, options = _read(value, path)
        recipe = Recipe(target, **_validated(target, options, path, later=True))
        recipe.path = path
        return recipe
    if isinstance(value, list):
        return [_built(item, path) for item in value]
    return value


def _validated(target: Callable[..., Any], options: dict[str, Any], path: str, later: bool = False) -> dict[str, Any]:
    try:
        return validate(target, options, later)
    except OptionError as error:
        raise error.with_path(path) from None
