"""Which OpenGL back end draws, decided before MuJoCo is first imported, and what to say where none does."""

from __future__ import annotations

import os
import traceback
from collections.abc import MutableMapping
from typing import Any

from worldmodels.errors import UserError, brief, near_match

VARIABLE = "MUJOCO_GL"
APT = {
    "egl": "sudo apt-get install -y libegl1 libgl1-mesa-dri",
    "osmesa": "sudo apt-get install -y libosmesa6",
    "glfw": "sudo apt-get install -y libglfw3 libgl1 libgl1-mesa-dri",
}
"""The Debian and Ubuntu packages that each back end needs (egl and osmesa: found by hiding libraries one by one)."""
LIBRARIES = ("mujoco", "dm_control", "OpenGL", "glfw", "gymnasium.envs.mujoco.mujoco_rendering")
"""Modules that draw with OpenGL."""
OFF = ("off", "disable", "disabled", "false", "0")


def choose_backend(environ: MutableMapping[str, str] = os.environ) -> str:
    """The back end in use: what MUJOCO_GL says, else EGL on a machine without a display, else MuJoCo's own choice.

    Writes MUJOCO_GL where it decides, and so must run before ``mujoco`` or ``dm_control`` is first imported.
    Raises :class:`UserError` for a back end that does not exist.
    """
    if not environ.get(VARIABLE) and not (environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")):
        environ[VARIABLE] = "egl"
    backend = environ.get(VARIABLE) or "glfw"
    if backend not in APT and backend not in OFF:
        hint = near_match(backend, APT)
        raise UserError(f"{VARIABLE}={backend} is not one of {', '.join(APT)} or disable.{hint}")
    return backend


def turn_off(environ: MutableMapping[str, str] = os.environ) -> None:
    """Keep this process away from OpenGL altogether, for workers that never draw. Call before MuJoCo's first import."""
    environ[VARIABLE] = "disable"


def fit_buffer(model: Any, size: int) -> None:
    """Make MuJoCo's buffer as large as the image. Call before anything draws with this model.

    Its own is of 640x480 pixels of four samples, all of which are cleared for every frame, and no image may be larger.
    """
    model.vis.global_.offwidth = model.vis.global_.offheight = size


def is_opengls(error: BaseException) -> bool:
    """Return whether an exception, or one that led to it, arose in what draws with OpenGL, and not in a caller."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules.append(type(error).__module__)
    cause = error.__cause__ or error.__context__
    return any(f"{module}.".startswith(tuple(f"{library}." for library in LIBRARIES)) for module in modules) or (
        cause is not None and is_opengls(cause)
    )


def advice(reason: object, backend: str | None = None) -> str:
    """One sentence: no frame can be drawn, why, and the exact package to install."""
    backend = backend or choose_backend()
    if backend in OFF:
        return f"{VARIABLE}={backend} turns drawing off: unset it, or observe obs=state."
    install = APT[backend]
    why = brief(reason) or type(reason).__name__
    return (
        f"No frame can be drawn with {VARIABLE}={backend} ({why}): on Debian or Ubuntu run `{install}`, "
        f"or observe obs=state; `python scripts/doctor.py` says more."
    )
