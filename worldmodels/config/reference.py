"""Reference of the command line: groups with their files, options with default, range and help."""

from __future__ import annotations

import inspect
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from worldmodels.common.build import TARGET, find
from worldmodels.common.markers import alternatives, describe, fields_of, is_a
from worldmodels.common.options import Option, options_of
from worldmodels.config.compose import config_dir, group_files, group_names, load_config
from worldmodels.config.nodes import FILLED_IN
from worldmodels.config.schema import Train
from worldmodels.envs import PATH
from worldmodels.envs.options import CONSUMERS, keys_of
from worldmodels.errors import shown

Setting = float | Sequence[float] | None
"""Values of an optimizer's options. Null leaves what it does everywhere."""
TRAINING = {
    "loss_scales": Option("loss_scales", Mapping[str, float], None, "factor of this loss; below 0 it is maximised"),
    "parts": Option(
        "parts", Mapping[str, Mapping[str, Setting]], None, "what the optimizer does otherwise in this part"
    ),
}
"""Keys of nodes that no constructor is given (:data:`~worldmodels.config.nodes.TRAINING_KEYS`)."""
LIBRARIES = {
    "optimizer.build.betas": "shares of the past that the means of gradients and of their squares keep",
    "optimizer.build.eps": "added to the divisor, under which gradients count as noise",
    "optimizer.build.fused": "update all weights in one kernel",
}
"""Help for options of others' classes, whose signatures say it nowhere."""
COPIED = ("latent", "decoder", "denoiser")
"""Nodes of the top level that others hold a copy of, by interpolation."""
UNSAID = ("choices", "words")
"""Keys that are filled in, not said."""


@dataclass(frozen=True)
class Line:
    """One option: its key, the value it has, what it may be, and what it is for."""

    key: str
    value: str
    allowed: str
    help: str


def groups(words: Iterable[str] = ()) -> dict[str, list[str]]:
    """List the files of each group, those of the folders that words add among them."""
    words = list(words)
    return {name: group_files(name, words) for name in group_names(words)}


def lines(cfg: DictConfig) -> Iterator[Line]:
    """List every option of a configuration: the top level first, then those of the classes that it names."""
    schemas = {name: option for name, option in options_of(Train).items() if name not in UNSAID and name in cfg}
    copied = {name: cfg[name] for name in COPIED}
    for name, option in schemas.items():
        if not isinstance(cfg[name], Mapping):
            yield _line(name, cfg[name], option)
    for name, option in schemas.items():
        if isinstance(cfg[name], Mapping):
            yield from _inner(name, cfg[name], option, copied)


def _inner(path: str, node: Mapping[str, Any], option: Option, copied: Mapping[str, Any]) -> Iterator[Line]:
    known = _known(path, node, option)
    for key, value in node.items():
        here = f"{path}.{key}"
        said = known.get(key) or TRAINING.get(key) or _item(key, option, typed=not known)
        origin = next((name for name, copy in copied.items() if isinstance(value, Mapping) and value == copy), None)
        if origin:
            yield Line(here, f"${{{origin}}}", "a copy", f"the options of {origin}, which are set there")
        elif here == f"{PATH}.baseline_overrides" and value:  # the environment's own keys, for another purpose
            yield from (_line(f"{here}.{k}", v, replace(known[k], help=said.help)) for k, v in value.items())
        elif isinstance(value, Mapping) and value:
            yield from _inner(here, value, said, copied)
        elif not key.startswith("_") and not (key in FILLED_IN and value is None):
            yield _line(here, value, replace(said, help=said.help or LIBRARIES.get(here, "")))


def _known(path: str, node: Mapping[str, Any], option: Option) -> dict[str, Option]:
    """The options that a node's own class, or whoever reads it, names."""
    schema = next((base for base, _ in alternatives(option.kind) if inspect.isclass(base) and is_dataclass(base)), None)
    known = dict(options_of(schema)) if schema else {}
    if fields := fields_of(option.kind):
        known |= options_of(fields.target)
    if isinstance(node.get(TARGET), str):
        known |= options_of(find(node[TARGET], path))
    if path == PATH:
        shared = ((consumer, keys_of(consumer)) for consumer in CONSUMERS)
        known |= {key: options_of(consumer)[key] for consumer, keys in shared for key in keys}
    return known


def _item(key: str, option: Option, typed: bool) -> Option:
    """Return the option of one item of a mapping whose keys are anybody's. Kind and purpose are the mapping's."""
    kinds = (typing.get_args(base) for base, _ in alternatives(option.kind) if is_a(typing.get_origin(base), Mapping))
    kind = next((inner[1] for inner in kinds if len(inner) == 2), Any)
    return Option(key, kind, None, option.help) if typed else Option(key, Any, None, "")


def _line(key: str, value: Any, option: Option) -> Line:
    return Line(key, shown(value), describe(option.kind), option.help)


def help_text(cfg: DictConfig, words: list[str], width: int = 100) -> str:
    """Write what the words of a command line, which made ``cfg``, leave to say, as ``--help`` prints it."""
    parts = ["groups (group=file):"]
    for name, files in groups(cfg.words).items():
        parts += textwrap.wrap(f"{name}: {', '.join(files)}", width, initial_indent="  ", subsequent_indent="      ")
    parts.append(f"\noptions (key=value){' with ' + ' '.join(words) if words else ''}:")
    for line in lines(cfg):
        text = "; ".join(filter(None, (line.help, "" if line.allowed == "anything" else line.allowed)))
        parts.append(f"  {line.key}={line.value}")
        parts += textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(parts)


HEAD = """# Options

Written by `python -m worldmodels.config.reference` from the signatures that check them. First the configuration as it
stands, then each file of a group. What a file leaves out is as it stands, or as in the file that it is built on, which
comes before it (`planner=cfgrl` beside `planner=diffusion`). `python scripts/train.py <words> --help` prints all
options with any words.
"""
TOLD = ("env", "latent", "heads", "dynamics", "objective", "denoiser", "planner", "optimizer")
"""Groups whose files have sections."""


def document() -> str:
    """Write the reference page."""
    every = groups()
    parts = [HEAD, "## Groups\n", "| group | files |", "|---|---|"]
    parts += [f"| `{name}=` | {', '.join(f'`{file}`' for file in files)} |" for name, files in every.items()]
    chosen = [(name, file) for name in TOLD for file in sorted(every[name], key=lambda f: (bool(_bases(name, f)), f))]
    seen: set[str] = set()
    listed: dict[tuple[str, str], dict[str, Line]] = {}
    for group, file in [("", ""), *chosen, ("experiment", "memory")]:
        words = [*([f"{group}={file}"] if file else []), *(["env=maze"] if file == "waypoints" else [])]
        cfg = load_config(words)
        listed[group, file] = {line.key: line for line in lines(cfg)}
        same = listed["", ""] | {k: x for base in _bases(group, file) for k, x in listed[group, base].items()}
        own = [
            line
            for key, line in listed[group, file].items()
            if (line != same.get(key) if key.startswith(f"{group}.") else key not in seen)
        ]
        if not own:
            continue
        seen |= {line.key for line in own}
        parts += [f"\n## {' '.join(f'`{word}`' for word in words) or 'As it stands'}\n"]
        parts += [f"On `{group}={base}`.\n" for base in _bases(group, file)]
        parts += [] if words else [f"With {', '.join(f'`{name}={cfg.choices[name]}`' for name in TOLD)}.\n"]
        parts += ["| key | default | may be | |", "|---|---|---|---|"]
        parts += [f"| `{x.key}` | `{_cell(x.value)}` | {_cell(x.allowed)} | {_cell(x.help)} |" for x in own]
    return "\n".join(parts) + "\n"


def _bases(group: str, file: str) -> list[str]:
    """List the files of its group that a file is built on, or that share with it what it is built on (``_file``)."""
    folder = config_dir() / group
    defaults = OmegaConf.load(folder / f"{file}.yaml").get("defaults", []) if file else []
    named = [base.removeprefix("_") for base in defaults if isinstance(base, str) and base != "_self_"]
    return [base for base in named if base != file and (folder / f"{base}.yaml").exists()]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace(">_<", ">\\_<").replace("<", "&lt;")


if __name__ == "__main__":
    (Path(__file__).resolve().parents[2] / "docs" / "options.md").write_text(document())
