"""`worldmodels <command> <words>`: what went wrong in one sentence, near matches, and exact exit codes."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType

from worldmodels.common.terminal import Interrupted, show_log
from worldmodels.errors import FULL, UserError, near_match, shown

DONE, MISTAKE, INTERRUPTED = 0, 1, 130
HELP = {"--help", "-h"}
COMMANDS = ("train", "evaluate", "compare", "sweep", "imagine", "collect", "benchmark", "gpu_check", "doctor")
FLAGS = {"--multirun", "-m", "--run", "-r", "--cfg", "-c", "--resolve", "--package", "-p", "--info", "-i"}
FLAGS |= {"--hydra-help", "--version", "--shell-completion", "-sc", "--experimental-rerun", *HELP}
FLAGS |= {"--config-path", "-cp", "--config-name", "-cn"}
"""Hydra's own, which train.py passes on."""
CONFIG_DIR = ("--config-dir", "-cd")


USER_ERRNOS = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
USER_ERRNOS += (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT)
"""Numbers of an OSError when a path or a disk is wrong, not the program."""


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
    run(module.main, getattr(module, "options", lambda _: words_of(module)))


def words_of(command: ModuleType) -> str:
    """List the words that a command takes, and say where others are listed that it passes on."""
    from worldmodels.common.arguments import listed

    if not command.WORDS:
        return "It takes no words."
    more = getattr(command, "CONFIGURES", None)
    others = f"\nOther words change {more}: see `python scripts/train.py --help`." if more else ""
    return listed(command.WORDS) + others


def _about(command: str) -> str:
    """The first clause of what a command says of itself."""
    return importlib.import_module(f"worldmodels.commands.{command}").__doc__.partition(":")[0]


def run(main: Callable[[list[str]], int | None], more_help: Callable[[list[str]], str] | None = None) -> None:
    """Run a script's main with its arguments. Exit 0 when done, 1 on a mistake, 130 when interrupted and saved.

    ``--help`` prints the script's own text instead, and ``more_help`` about the other words.
    """
    show_log()
    try:
        words = with_search_path(without_trust(sys.argv[1:]))
        require_no_dashes(words)
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
        mend = "free some space and use resume=" if error.errno in FULL else "choose another path"
        where = shown(error.filename or "a file")
        sys.stderr.write(f"error: {where} cannot be read or written ({error.strerror}): {mend}.\n")
        sys.exit(MISTAKE)
    sys.exit(DONE)


def require_no_dashes(words: list[str]) -> None:
    """Refuse ``--seed=1`` and ``--seed 1``: Hydra's own flags alone have dashes."""
    for word, after in pairwise([*words, ""]):
        name, _, value = word.partition("=")
        if not word.startswith("-") or name in FLAGS:
            continue
        key = name.strip("-").replace("-", "_") or "key"
        value = value or ("<value>" if not after or after.startswith("-") or "=" in after else after)
        raise UserError(
            f"{shown(word)} has dashes: write {shown(f'{key}={value}')} (no dashes); --help lists all words."
        )


def without_trust(words: list[str]) -> list[str]:
    """Take the word ``trust=[mylab]`` out, after which configurations may name what ``mylab`` defines."""
    from worldmodels.common.arguments import parse_list, split_arguments
    from worldmodels.common.trust import extend_trust

    given, rest = split_arguments(words, {"trust": parse_list}, required=())
    extend_trust(given.get("trust", ()))
    return rest


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
