"""A run folder is written by one process at a time: a file in it says by which."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import psutil

from worldmodels.errors import UserError

log = logging.getLogger(__name__)

LOCK = ".lock.json"
"""File of a folder that is being written. It says who does."""
SAME_START = 1.0
"""Seconds within which two readings of when a process started are one."""


@dataclass(frozen=True)
class Owner:
    """A process, told from a later one that was given its number."""

    pid: int
    host: str
    started: float
    """Seconds from the machine's start to its own, which setting a clock does not change."""

    @classmethod
    def this(cls) -> Owner:
        """Describe the present process."""
        return cls(os.getpid(), socket.gethostname(), seconds_to_start(os.getpid()))

    def lives(self) -> bool:
        """Return whether the process still runs. Its host must be this one."""
        try:
            return abs(seconds_to_start(self.pid) - self.started) < SAME_START
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # it is another user's
            return True


def seconds_to_start(pid: int) -> float:
    """Return how long after the machine a process was started."""
    process, up_since = psutil.Process(pid), psutil.boot_time()
    if process.status() == psutil.STATUS_ZOMBIE:  # it writes no more
        raise psutil.NoSuchProcess(pid)
    return process.create_time() - up_since


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the one process that writes into ``folder`` until the block ends.

    Raises:
        UserError: another one does, or may do so on another host; the folder cannot be written.
    """
    file = folder / LOCK
    me = Owner.this()
    try:
        _take(file, me)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}), which what runs in it must: use a copy of it, or "
            "a folder of your own."
        ) from error
    try:
        yield
    finally:
        if file.exists():  # a run that failed before it began has taken it along
            with _opened(file) as content:
                if owner_in(content) == me:
                    file.unlink()


def _take(file: Path, me: Owner) -> None:
    """Write who writes, unless somebody does."""
    with _opened(file) as content:
        owner = owner_in(content)
        if owner is not None:
            require_gone(owner, me, file)
            log.info("process %d, which wrote %s, is gone: its lock is taken over", owner.pid, file.parent)
        elif content.seek(0, os.SEEK_END):
            log.info("%s cannot be read, as after its writer was killed: it is taken over", file)
        content.seek(0)
        content.truncate()
        json.dump(asdict(me), content)


def require_gone(owner: Owner, me: Owner, file: Path) -> None:
    """Refuse a folder whose writer may still write."""
    if owner.host != me.host:
        raise UserError(
            f"{file.parent} is being written by process {owner.pid} on {owner.host}, and this is {me.host}: "
            f"wait for it, or if it is gone delete {file}."
        )
    if owner.lives():
        raise UserError(f"{file.parent} is being written by process {owner.pid}: wait until it ends, or stop it first.")


def owner_in(content: TextIO) -> Owner | None:
    """Return who wrote a lock. None of an empty or a torn one, and of one that no process of ours has written."""
    content.seek(0)
    try:
        found = Owner(**json.load(content))
    except (ValueError, TypeError, RecursionError):
        return None
    known = type(found.pid) is int and isinstance(found.host, str) and type(found.started) in (int, float)
    return found if known and found.pid > 0 else None


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """Open a lock while no other process reads or writes it, however many come at once."""
    while True:
        content = file.open("a+", encoding="utf-8")
        try:
            _alone(content, file)
            if _is(file, content):
                break
        except BaseException:
            content.close()
            raise
        content.close()  # deleted since by whoever held it: open the next
    with content:
        yield content


def _alone(content: TextIO, file: Path) -> None:
    try:
        fcntl.flock(content, fcntl.LOCK_EX)
    except OSError as error:
        log.info("the file system of %s locks no files (%s): do not start two runs in it at once", file, error.strerror)


def _is(file: Path, content: TextIO) -> bool:
    """Return whether a path still leads to an open file."""
    try:
        return os.path.samestat(file.stat(), os.fstat(content.fileno()))
    except FileNotFoundError:
        return False
