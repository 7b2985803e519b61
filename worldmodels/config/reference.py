"""What can be said on a command line: groups with their files, options with default, range and help."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from worldmodels.common.build import TARGET, find
from worldmodels.common.markers import alternatives, describe, fields_of
from worldmodels.common.options import Option, options_of
from worldmodels.config.compose import config_dir, load_config
from worldmodels.config.nodes import FILLED_IN
from worldmodels.config.schema import Train
from worldmodels.envs import PATH
from worldmodels.envs.options import CONSUMERS, keys_of
from worldmodels.errors import shown

TRAINING_HELP = {"loss_scales": "factor of this loss"}
"""What the keys of nodes mean that no constructor is given."""
UNSAID = ("choices", "words")
"""Keys that are filled in, not said."""


@dataclass(frozen=True)
class Line:
    """One option: its key, the value it has, what it may be, and what it is for."""

    key: str
    value: str
    allowed: str
    help: str


def groups() -> dict[str, list[str]]:
    """List the files of each group."""
    folders = sorted(path for path in config_dir().iterdir() if path.is_dir())
    return {folder.name: sorted(path.stem for path in folder.glob("[!_]*.yaml")) for folder in folders}


def lines(cfg: DictConfig) -> Iterator[Line]:
    """List every option of a configuration: the top level first, then those of the classes that it names."""
    schemas = {name: option for name, option in options_of(Train).items() if name not in UNSAID and name in cfg}
    for name, option in schemas.items():
        if not isinstance(cfg[name], Mapping):
            yield _line(name, cfg[name], option)
    for name, option in schemas.items():
        if isinstance(cfg[name], Mapping):
            yield from _inner(name, cfg[name], option)


def _inner(path: str, node: Mapping[str, Any], option: Option) -> Iterator[Line]:
    schema = next((base for base, _ in alternatives(option.kind) if inspect.isclass(base) and is_dataclass(base)), None)
    known = dict(options_of(schema)) if schema else {}
    if fields := fields_of(option.kind):
        known |= options_of(fields.target)
    if isinstance(node.get(TARGET), str):
        known |= options_of(find(node[TARGET], path))
    if path == PATH:
        shared = ((consumer, keys_of(consumer)) for consumer in CONSUMERS)
        known |= {key: options_of(consumer)[key] for consumer, keys in shared for key in keys}
    for key, value in node.items():
        here, said = f"{path}.{key}", known.get(key, Option(key, Any, None, TRAINING_HELP.get(path.split(".")[-1], "")))
        if isinstance(value, Mapping) and value:
            yield from _inner(here, value, said)
        elif not key.startswith("_") and not (key in FILLED_IN and value is None):
            yield _line(here, value, said)


def _line(key: str, value: Any, option: Option) -> Line:
    return Line(key, shown(value), describe(option.kind), option.help)


def help_text(words: list[str], width: int = 100) -> str:
    """Write what the words of a command line leave to say, as ``--help`` prints it."""
    parts = ["groups (group=file):"]
    for name, files in groups().items():
        parts += textwrap.wrap(f"{name}: {', '.join(files)}", width, initial_indent="  ", subsequent_indent="      ")
    parts.append(f"\noptions (key=value){' with ' + ' '.join(words) if words else ''}:")
    for line in lines(load_config(words)):
        text = "; ".join(filter(None, (line.help, "" if line.allowed == "anything" else line.allowed)))
        parts.append(f"  {line.key}={line.value}")
        parts += textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(parts)


HEAD = """# Options

Written by `python -m worldmodels.config.reference` from the signatures that check them: defaults are those of the
configuration as it stands, and of one file for each group of classes. `python scripts/train.py <words> --help` prints
the same for any words.
"""


def document() -> str:
    """Write the reference page."""
    parts = [HEAD, "## Groups\n", "| group | files |", "|---|---|"]
    parts += [f"| `{name}=` | {', '.join(f'`{file}`' for file in files)} |" for name, files in groups().items()]
    seen: set[str] = set()
    every = groups()
    chosen = [[]] + [[f"{name}={file}"] for name in ("env", "dynamics", "planner", "optimizer") for file in every[name]]
    chosen += [["experiment=memory"]]
    for words in chosen:
        words = [*words, *(["env=maze"] if words == ["planner=waypoints"] else [])]
        fresh = [line for line in lines(load_config(words)) if line.key not in seen]
        if not fresh:
            continue
        seen |= {line.key for line in fresh}
        parts += [f"\n## {' '.join(f'`{word}`' for word in words) or 'As it stands'}\n"]
        parts += ["| key | default | may be | |", "|---|---|---|---|"]
        parts += [f"| `{x.key}` | `{_cell(x.value)}` | {_cell(x.allowed)} | {_cell(x.help)} |" for x in fresh]
    return "\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    (Path(__file__).resolve().parents[2] / "docs" / "options.md").write_text(document())
