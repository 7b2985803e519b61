"""Which parts of what an environment observes are frames, which are numbers, and which are left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from gymnasium import spaces

from worldmodels.common.columns import CAMERA_PREFIX, PIXELS
from worldmodels.envs.gym.images import Images, looks_like_image, surely_image
from worldmodels.envs.gym.parts import parts_of, values_of
from worldmodels.envs.gym.vectors import Vectors
from worldmodels.errors import OptionError, UserError, near_match, shown


@dataclass(frozen=True)
class Keys:
    """Names of parts, nested ones with dots between (``cameras.wrist``). None: those that can be read so.

    Parts of a Tuple are called 0, 1, ….
    """

    pixels: Annotated[Sequence[str | int] | None, "parts that are frames; the first is the one that is scored"] = None
    state: Annotated[Sequence[str | int] | None, "parts that are numbers and choices, side by side in this order"] = (
        None
    )


class Observations:
    """Reads what is observed: a camera for each image, and all else as one state.

    ``pixels`` is the first camera, ``pixels_<name>`` are the others. ``note`` says which part became what, and what is
    left out, where there is more than one.

    Args:
        name: of the environment.
        space: what it observes.
        obs: ``pixels``, ``state`` or ``both``: what of it is read.
        size: side of the frames; without one they keep theirs.
        keys: which parts are read as what.

    Raises:
        UserError: a part cannot be read so; nothing is left; two parts or two cameras would be called alike.
    """

    def __init__(self, name: str, space: spaces.Space, obs: str, size: int | None, keys: Keys = Keys()) -> None:
        self.name, self._space = name, space
        _require_names(name, [part for part, _ in parts_of(space)])
        self._parts = dict(parts_of(space))
        _require_use("keys.pixels", keys.pixels, obs, "state")
        _require_use("keys.state", keys.state, obs, "pixels")
        frames = self._images(obs, keys.pixels) if obs != "state" else []
        numbers = self._numbers(keys.state, frames) if obs != "pixels" else []
        self._frames = dict(zip(_camera_keys(name, frames), frames, strict=True))
        self.images = {key: Images(name, self._parts[part], size) for key, part in self._frames.items()}
        self._numbered = numbers
        self.vectors = Vectors(name, [(part, self._parts[part]) for part in numbers]) if numbers else None
        self.left_out = [part for part in self._parts if part not in (*frames, *numbers)]

    @property
    def notes(self) -> list[str]:
        """Return what was made of the parts, as sentences without their full stop."""
        told = [images.note for images in self.images.values()] + [self.vectors.note if self.vectors else ""]
        if len(self._frames) + bool(self._numbered) + bool(self.left_out) > 1:
            feeds = [f"{key} from {part!r}" for key, part in self._frames.items()]
            feeds += [f"state from {', '.join(map(repr, self._numbered))}"] if self._numbered else []
            unused = f"; not used: {', '.join(map(repr, self.left_out))}" if self.left_out else ""
            told.append(f"{self.name} is observed as {', '.join(feeds)}{unused}")
        return [note for note in told if note]

    def read(self, raw: Any) -> dict[str, np.ndarray]:
        """Return the frames and the state of an observation."""
        return self.read_parts(dict(zip(self._parts, values_of(self.name, self._space, raw), strict=True)))

    def read_parts(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the frames and the state of an observation that was taken apart, by the names of its parts."""
        read = {key: images.read(values[self._frames[key]]) for key, images in self.images.items()}
        if self.vectors is not None:
            read["state"] = self.vectors.read([values[part] for part in self._numbered])
        return read

    def _images(self, obs: str, asked: Sequence[str | int] | None) -> list[str]:
        """Return the parts that are frames: those that are asked for, or all that are surely or possibly images."""
        if asked is None:
            fits = looks_like_image if obs == "pixels" else surely_image
            return [part for part, space in self._parts.items() if fits(space)]
        chosen = self._known("keys.pixels", asked)
        for part in chosen:
            if not looks_like_image(self._parts[part]):
                raise OptionError("keys.pixels", part, f"is no image but {shown(self._parts[part])}")
        return chosen

    def _numbers(self, asked: Sequence[str | int] | None, frames: Iterable[str]) -> list[str]:
        """Return the parts that are numbers. Of several, text and images are left out."""
        if asked is not None:
            return self._known("keys.state", asked)
        rest = [part for part in self._parts if part not in frames]
        if len(self._parts) == 1:
            if surely_image(self._parts[rest[0]] if rest else self._space):
                raise UserError(f"{self.name} observes images and has no state vector; use obs=pixels.")
            return rest
        return [p for p in rest if not isinstance(self._parts[p], spaces.Text) and not surely_image(self._parts[p])]

    def _known(self, option: str, asked: Sequence[str | int]) -> list[str]:
        """Return the parts that are asked for. Each must be one, and asked for once."""
        chosen = [str(part) for part in asked]
        for part in chosen:
            if part not in self._parts:
                known, hint = tuple(self._parts), near_match(part, self._parts)
                raise OptionError(option, part, f"is not observed by {self.name}", allowed=known, hint=hint)
            if chosen.count(part) > 1:
                raise OptionError(option, asked, f"names {part!r} more than once")
        return chosen


def _require_names(name: str, parts: Sequence[str]) -> None:
    """Refuse an observation of which two parts have one name, as ``a.b`` and ``b`` in ``a``."""
    for part in parts:
        if parts.count(part) > 1:
            raise UserError(
                f"{name} observes two parts that are both called {part!r}, with a dot between the keys of a Dict in a "
                "Dict: rename one in its observation_space."
            )


def _require_use(option: str, asked: Sequence[str | int] | None, obs: str, without: str) -> None:
    """Refuse a choice of parts that nothing is made of."""
    if asked is not None and obs == without:
        other = "pixels" if without == "state" else "state"
        raise OptionError(
            option, list(asked), f"is without use with obs={obs}: leave it out, or say obs={other} or both"
        )


def _camera_keys(name: str, parts: Sequence[str]) -> list[str]:
    """Return the columns of cameras: ``pixels`` for the first, and the names of the others behind it."""
    keys = [PIXELS] + [CAMERA_PREFIX + re.sub(r"\W+", "_", part) for part in parts[1:]]
    if len(set(keys)) < len(keys):
        raise UserError(f"{name}: cameras {', '.join(parts)} would have one name, with letters and digits alone.")
    return keys[: len(parts)]
