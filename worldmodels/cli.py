"""Hydra's compose, turned into one-sentence errors, near matches and exact exit codes."""

from __future__ import annotations

import errno
import importlib
import logging
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from worldmodels.errors import UserError, near_match

DONE, MISTAKE, INTERRUPTED = 0, 1, 130
HELP = {"--help", "-h"}
COMMANDS = ("train", "evaluate", "compare", "sweep", "imagine", "collect", "benchmark", "doctor")
CONFIG_DIR = ("--config-dir", "-cd")


USER_ERRNOS = (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""Numbers of an OSError when a path or a disk is wrong, not the program."""


class Interrupted(Exception):
    """The user pressed Ctrl-C and everything has been saved."""


def split_arguments(
    words: list[str], known: dict[str, Callable[[str], Any]], required: tuple[str, ...]
) -> tuple[dict, list[str]]:
    """Split ``key=value`` words into a script's own, converted, and the overrides that are left."""
    own, rest = {}, []
    for word in words:
        key, _, value = word.partition("=")
        if key not in known:
            rest.append(word)
            continue
        try:
            own[key] = known[key](value)
        except ValueError:
            raise UserError(f"{key}={value} must be {EXPECTED[known[key]]}.") from None
    for key in required:
        if key not in own:
            raise UserError(f"say which {key}: {key}=<…>; this script takes {', '.join(f'{k}=' for k in known)}.")
    return own, rest


def parse_whole(text: str) -> int:
    """Read a whole number of at least 0. 1e5 is one."""
    if float(text) < 0 or not float(text).is_integer():
        raise ValueError(text)
    return int(float(text))


def parse_count(text: str) -> int:
    """A whole number of at least 1."""
    if parse_whole(text) < 1:
        raise ValueError(text)
    return parse_whole(text)


def parse_counts(text: str) -> list[int]:
    """Whole numbers of at least 1, with commas between."""
    return [parse_count(part) for part in text.split(",")]


def parse_names(text: str) -> list[str]:
    """Words with commas between."""
    return text.split(",")


def parse_list(text: str) -> list[str]:
    """Read the items between commas, with or without brackets around all of it. Items may hold spaces."""
    inner = text.strip().removeprefix("[").removesuffix("]")
    found = [part.strip().strip("'\"") for part in inner.split(",")]
    if not all(found):
        raise ValueError(text)
    return found


def parse_bool(text: str) -> bool:
    """Read true or false."""
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


EXPECTED = {
    parse_list: "a list such as [one,two]",
    parse_bool: "true or false",
    parse_whole: "a whole number of at least 0",
    parse_count: "a whole number of at least 1",
    parse_counts: "whole numbers of at least 1 with commas between",
}


def console() -> None:
    """Run ``worldmodels <command> <words>``; without a command, or with ``--help``, list the commands."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in HELP:
        lines = [f"  {name:<10} {_about(name)}" for name in COMMANDS]
        sys.stdout.write("\n".join(["worldmodels <command> [words], each with --help:", *lines]) + "\n")
        sys.exit(DONE)
    if command not in COMMANDS:
        near = near_match(command, COMMANDS)
        sys.stderr.write(f"error: {command} is not one of {', '.join(COMMANDS)}.{near}\n")
        sys.exit(MISTAKE)
    sys.argv = [f"{sys.argv[0]} {command}", *words]
    script(command)


def script(command: str) -> None:
    """Run a command with the arguments of this process."""
    module = importlib.import_module(f"worldmodels.commands.{command}")
    run(module.main, getattr(module, "options", None))


def _about(command: str) -> str:
    """The first clause of what a command says of itself."""
    return importlib.import_module(f"worldmodels.commands.{command}").__doc__.partition(":")[0]


def run(main: Callable[[list[str]], int | None], more_help: Callable[[list[str]], str] | None = None) -> None:
    """Run a script's main with its arguments. Exit 0 when done, 1 on a mistake, 130 when interrupted and saved.

    ``--help`` prints the script's own text instead, and ``more_help`` about the other words.
    """
    show_log()
    try:
        words = with_search_path(sys.argv[1:])
        if asked := HELP.intersection(words):
            rest = [word for word in words if word not in asked]
            parts = [sys.modules[main.__module__].__doc__, more_help(rest) if more_help else ""]
            sys.stdout.write("\n".join(part.strip() + "\n" for part in parts if part))
        else:
            sys.exit(main(words) or DONE)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(MISTAKE)
    except (Interrupted, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in USER_ERRNOS:
            raise
        mend = "free some space and use resume=" if error.errno == errno.ENOSPC else "choose another path"
        sys.stderr.write(f"error: {error.filename or 'a file'} cannot be written ({error.strerror}): {mend}.\n")
        sys.exit(MISTAKE)
    sys.exit(DONE)


def with_search_path(words: list[str]) -> list[str]:
    """Turn ``--config-dir FOLDER`` into the word that adds a folder with files of groups."""
    given, rest = None, []
    for word in words:
        if given == "next":
            given = word
        elif word in CONFIG_DIR:
            given = "next"
        elif word.startswith("--config-dir="):
            given = word.partition("=")[2]
        else:
            rest.append(word)
    if given == "next":
        raise UserError("--config-dir needs a folder with files of groups.")
    if given is None:
        return rest
    from worldmodels.config.compose import search_word

    return [search_word(given), *rest]


def show_log() -> None:
    """Print what is logged, as every script does and every process that one starts."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    for package in ("worldmodels", "dynamics", "planners"):  # others' advice does not concern who runs a script
        logging.getLogger(package).setLevel(logging.INFO)


class CtrlC:
    """The first Ctrl-C asks for an orderly stop, the second ends the process at once."""

    def __init__(self) -> None:
        self.pressed = False

    def __enter__(self) -> CtrlC:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.pressed:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        self.pressed = True
        sys.stderr.write("\nstopping and saving; press Ctrl-C again to stop at once\n")
