"""The files that describe the installation agree with each other, with the code and with what is installed."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from places import ROOT, SUPPORT

from worldmodels.envs.rendering import APT

PACKAGES = ("worldmodels", "dynamics", "planners")
PYTHONS = ("3.11", "3.12")
FOLDERS = {".ci", "configs", "docs", "dynamics", "examples", "planners", "results", "scripts", "tests", "worldmodels"}
FILES = {
    ".gitignore",
    "LICENSE",
    "Makefile",
    "README.md",
    "constraints.txt",
    "environment.yml",
    "mkdocs.yml",
    "pyproject.toml",
}
OF_CUDA = ("nvidia-", "cuda-", "triton")
"""What a torch built for CUDA brings and pins itself."""


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def pins() -> dict[str, Version]:
    return read_pins(ROOT / "constraints.txt")


def read_pins(path: Path) -> dict[str, Version]:
    """Package to version; anything that is not an exact pin without a local suffix fails here."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    matches = [re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    found = {match[1]: Version(match[2]) for match in matches if match}
    assert len(found) == len(lines)
    assert list(found) == sorted(found)  # so that a change is one line of a diff
    return found


@pytest.fixture(scope="module")
def environment() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every file of the repository, new ones included and ignored ones not."""
    answer = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        pytest.skip(f"not a git checkout: {answer.stderr.strip()}")
    return [path for name in answer.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def requirements(pyproject: dict) -> list[Requirement]:
    """All that is declared but for the extras whose packages are in no environment that runs these tests."""
    of_others = ("docs", "loggers", "envpool")
    extras = [lines for name, lines in pyproject["project"]["optional-dependencies"].items() if name not in of_others]
    return [Requirement(line) for lines in (pyproject["project"]["dependencies"], *extras) for line in lines]


def needed(requirement: Requirement, python: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The packages, and their extras, that ``requirement`` brings directly."""
    for line in importlib.metadata.requires(requirement.name) or []:
        found = Requirement(line)
        environments = [{"python_version": python, "extra": extra} for extra in ("", *requirement.extras)]
        if found.marker is None or any(found.marker.evaluate(values) for values in environments):
            yield canonicalize_name(found.name), tuple(sorted(found.extras))


def test_every_requirement_is_pinned_within_its_range(pyproject: dict, pins: dict[str, Version]) -> None:
    wrong = [str(r) for r in requirements(pyproject) if pins.get(canonicalize_name(r.name)) not in r.specifier]
    assert not wrong


@pytest.mark.parametrize("python", PYTHONS)
def test_pins_are_exactly_what_the_requirements_bring(python: str, pyproject: dict, pins: dict[str, Version]) -> None:
    """On each supported Python nothing needed lacks a pin, and nothing else has one; CUDA's packages are left aside."""
    todo = [(canonicalize_name(r.name), tuple(sorted(r.extras))) for r in requirements(pyproject)]
    seen = set(todo)
    while todo:
        name, extras = todo.pop()
        text = f"{name}[{','.join(extras)}]" if extras else name
        fresh = {item for item in needed(Requirement(text), python) if not item[0].startswith(OF_CUDA)} - seen
        seen |= fresh
        todo += fresh
    assert {name for name, _ in seen} == set(pins)


def test_installed_versions_are_the_pins(pins: dict[str, Version]) -> None:
    installed = {name: Version(importlib.metadata.version(name)) for name in pins}
    assert {name: version.public for name, version in installed.items()} == {n: str(v) for n, v in pins.items()}


def test_the_site_has_pins_of_its_own(pyproject: dict, pins: dict[str, Version]) -> None:
    """`make docs` itself checks that none is missing: it installs these alone, and asks pip what they lack."""
    of_site = read_pins(ROOT / "docs" / "site" / "requirements.txt")
    declared = [Requirement(line) for line in pyproject["project"]["optional-dependencies"]["docs"]]
    assert [str(r) for r in declared if of_site.get(canonicalize_name(r.name)) not in r.specifier] == []
    both = of_site.keys() & pins.keys()
    assert {name: of_site[name] for name in both} == {name: pins[name] for name in both}


def test_bounds_that_must_not_move(pyproject: dict) -> None:
    bounds = {canonicalize_name(r.name): r.specifier for r in requirements(pyproject)}
    assert "4.0.0" not in bounds["mujoco"]  # dm_control 1.0.50 fails with it
    assert "3.16.0" not in bounds["mujoco"]
    assert "2.10.0" not in bounds["torch"]


def test_all_files_name_the_same_pythons(pyproject: dict, environment: dict) -> None:
    supported = SpecifierSet(pyproject["project"]["requires-python"])
    assert [f"3.{minor}" for minor in range(8, 20) if f"3.{minor}.0" in supported] == list(PYTHONS)
    [conda] = [line for line in conda_packages(environment) if line.startswith("python")]
    assert SpecifierSet(conda.removeprefix("python")) == supported
    low, high = (tuple(map(int, python.split("."))) for python in PYTHONS)
    assert f"not {low} <= sys.version_info[:2] <= {high}" in (ROOT / "Makefile").read_text()


def test_conda_installs_the_same_and_what_draws(environment: dict) -> None:
    [section] = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert section == ["-c constraints.txt", "-e .[dev]"]
    packages = {re.split("[<>=]", line)[0] for line in conda_packages(environment)}
    assert packages == {"python", "pip", "libegl", "libgl", "libgles", "libopengl", "mesalib"}
    assert environment["variables"]["MUJOCO_GL"] == "egl"
    assert environment["variables"]["GOMP_SPINCOUNT"] == "20000"


def conda_packages(environment: dict) -> list[str]:
    return [item for item in environment["dependencies"] if isinstance(item, str)]


def test_the_wheel_holds_the_packages_and_the_configs(pyproject: dict) -> None:
    wheel = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert sorted(wheel["packages"]) == sorted(PACKAGES)
    assert wheel["force-include"] == {"configs": "worldmodels/configs"}
    assert all((ROOT / package / "__init__.py").is_file() for package in PACKAGES)
    assert not (
        ROOT / "worldmodels" / "configs"
    ).exists()  # the wheel's place for them, see worldmodels.config.config_dir


def test_everything_imported_is_declared(pyproject: dict) -> None:
    declared = {canonicalize_name(r.name) for r in requirements(pyproject)}
    owners = importlib.metadata.packages_distributions()
    own = {*PACKAGES, *(path.stem for path in SUPPORT.glob("*.py"))}
    undeclared = {}
    for path in (path for folder in (*PACKAGES, "scripts", "tests") for path in (ROOT / folder).rglob("*.py")):
        for module in imported(path) - own - sys.stdlib_module_names:
            if not declared & {canonicalize_name(name) for name in owners.get(module, [])}:
                undeclared[module] = str(path.relative_to(ROOT))
    assert not undeclared


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports absolutely."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.process
def test_the_top_level_is_the_documented_one(tracked: list[Path]) -> None:
    parts = [path.relative_to(ROOT).parts for path in tracked]
    assert {part[0] for part in parts if len(part) > 1} == FOLDERS
    assert {part[0] for part in parts if len(part) == 1} == FILES


@pytest.mark.process
def test_no_file_names_a_folder_of_somebodys_machine(tracked: list[Path]) -> None:
    private = re.compile(rb"(?<![\w.}/-])/(?:work|root|home|Users|tmp)\b")
    texts = {path: path.read_bytes() for path in tracked}
    found = {str(path.relative_to(ROOT)): match[0] for path, text in texts.items() if (match := private.search(text))}
    assert not found


def test_the_documented_system_packages_are_the_doctors() -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    assert [command for command in APT.values() if f"`{command}`" not in text] == []


def test_continuous_integration_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert any(line.split()[:2] == ["make", "test"] for line in script.read_text().splitlines())
