"""Which code runs is known in a checkout, in an installation, and without git; nothing fails where it is not."""

from __future__ import annotations

import subprocess
from importlib import metadata

import pytest

from worldmodels.common import version
from worldmodels.common.version import code_version


@pytest.fixture(autouse=True)
def forgotten():
    code_version.cache_clear()
    yield
    code_version.cache_clear()


@pytest.mark.process
def test_a_checkout_names_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(version, "ROOT", tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "c"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    said = code_version().removeprefix("commit ")
    assert len(said) >= 7
    assert commit.startswith(said)


def test_without_git_it_is_the_installed_version(tmp_path, monkeypatch):
    def no_git(*_, **__):
        raise FileNotFoundError("git")

    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(version, "ROOT", tmp_path)
    monkeypatch.setattr(subprocess, "run", no_git)
    monkeypatch.setattr(metadata, "version", lambda name: "1.2")
    assert code_version() == "version 1.2"


def test_nothing_is_said_where_nothing_is_known(tmp_path, monkeypatch):
    def not_installed(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(version, "ROOT", tmp_path)
    monkeypatch.setattr(metadata, "version", not_installed)
    assert code_version() == ""
