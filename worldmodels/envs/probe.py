"""What an environment says of itself before any worker starts: one is built in a process of its own, and ended again.

So the parent loads no simulator. Never imports torch, as that process imports this file.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import psutil

from worldmodels.envs import describe, make
from worldmodels.envs.base import check_spaces, frame_rate
from worldmodels.envs.stream import Spaces, enter_worker, explain, kill, without_interrupts
from worldmodels.errors import UserError


@dataclass(frozen=True)
class Probed:
    """What building an environment once told: its spaces, its memory in bytes, and what it has to say of itself."""

    spaces: Spaces
    size: int
    notes: list[str]
    frames_per_step: int
    episode_decisions: int | None
    """Most of an episode; None: no limit is known."""
    state_parts: dict[str, int] = field(default_factory=dict)
    """What a state is made of, and how many numbers each has, where it tells."""
    frame_rate: float | None = None
    """Steps in a second, where it tells."""


def probe(env: dict[str, Any], seed: int, seconds: float) -> Probed:
    """Return what building an environment once tells.

    Raise ``UserError`` where it cannot be built, or not in so many seconds.
    """
    name, context = describe(env), multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=probe_spaces, args=(env, seed, sender), daemon=True)
    with without_interrupts():
        process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise UserError(f"{name} could not be built within {seconds:g} s; run scripts/doctor.py.")
        answer = receiver.recv()
    except EOFError:
        process.join(1)
        raise UserError(
            f"The process that builds {name} died with exit code {process.exitcode}; run scripts/doctor.py."
        ) from None
    finally:
        kill(process.pid)
        process.join()
    if isinstance(answer, UserError):
        raise answer
    return answer


def probe_spaces(env: Mapping[str, Any], seed: int, connection: Connection) -> None:
    """Build an environment once in a process of its own. Send its spaces and its memory, or why it cannot be built."""
    enter_worker(env)
    try:
        built = make(env, seed)
        check_spaces(describe(env), built.observation_space, built.action_space)
        found = built.observation_space, built.action_space
        size, inner = psutil.Process().memory_full_info().uss, getattr(built, "unwrapped", built)
        notes, frames = getattr(inner, "notes", []), getattr(inner, "frames_per_step", 1)
        decisions, parts = getattr(inner, "episode_decisions", None), getattr(inner, "state_parts", {})
        connection.send(Probed(found, size, list(notes), int(frames), decisions, parts, frame_rate(built)))
        built.close()
    except UserError as error:
        connection.send(error)
    except BaseException as error:  # sys.exit() too
        connection.send(UserError(explain(error)))


def require_memory(name: str, num_envs: int, size: int) -> None:
    """Refuse more workers of ``size`` bytes each, before they step or draw anything, than memory has room for."""
    needed, free = num_envs * size, psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"num_envs={num_envs} processes of {name} take at least {needed / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB of memory are free: lower num_envs."
        )
