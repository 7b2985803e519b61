"""The doctor finds what is missing and says what to install; training says the same."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from places import ROOT

from worldmodels.envs import doctor, rendering
from worldmodels.errors import UserError

SCRIPT = ROOT / "scripts" / "doctor.py"
NO_GL = {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "99"}
CHEETAH = {"_target_": doctor.DMC, "task": "cheetah_run", "size": 32}


def installed(**packages: list[str]) -> list[tuple[str, str]]:
    return [(name, version) for name, versions in packages.items() for version in versions]


@pytest.mark.parametrize(
    ("packages", "library", "said"),
    [
        (installed(mujoco=["3.17.0"]), "3.17.0", ""),
        (installed(mujoco=["3.17.0"], mujoco_core=["3.17.0"]), "3.17.0", ""),
        (installed(mujoco=["3.17.0"], mujoco_core=["4.0.0"]), "3.17.0", "mujoco 3.17.0, mujoco-core 4.0.0"),
        (installed(mujoco=["3.17.0", "4.0.0"]), "3.17.0", "mujoco 3.17.0, mujoco 4.0.0"),
        (installed(mujoco=["3.17.0"]), "4.0.0", "library that says 4.0.0"),
        (installed(mujoco=["4.0.0"]), "4.0.0", "too new"),
        (installed(numpy=["2.4.0"]), "", "not installed"),
    ],
)
def test_mixed_mujoco_packages_are_refused(packages, library, said):
    advice = doctor.mixed_mujoco(packages, library)
    assert said in advice
    assert bool(advice) == bool(said)
    assert not advice or "pip uninstall -y mujoco mujoco-core && pip install" in advice


def test_this_machines_packages_are_consistent():
    assert doctor.mixed_mujoco() == ""


@pytest.mark.process
def test_workers_draw_and_are_timed_together():
    drawings = doctor.draw(CHEETAH, workers=2, frames=3)
    assert len(drawings) == 2
    for drawing in drawings:
        assert drawing.milliseconds > 0
        assert drawing.renderer
        assert not drawing.blank


@pytest.mark.process
def test_a_task_in_wrappers_is_drawn_too(tmp_path):
    goal = tmp_path / "goal.png"
    cv2.imwrite(str(goal), np.zeros((32, 32, 3), np.uint8))
    [drawing] = doctor.draw({**CHEETAH, "obs": "pixels", "stack": 3, "goal": str(goal)}, workers=1, frames=1)
    assert drawing.renderer


def test_software_renderers_are_recognized():
    assert doctor.Drawing("llvmpipe (LLVM 15.0.6, 256 bits)", 1.0, False).software
    assert not doctor.Drawing("NVIDIA H200/PCIe/SSE2", 1.0, False).software


@pytest.mark.process
@pytest.mark.parametrize(
    ("how", "said"), [("hang", "driver hangs: nothing was drawn within 3 s"), ("blank", "are blank")]
)
def test_drivers_that_hang_or_draw_nothing_are_reported(how, said):
    with pytest.raises(UserError, match=said):
        doctor.draw(
            {"_target_": "broken_envs.Canvas", "how": how}, workers=1, frames=1, timeout=3.0 + 27 * (how == "blank")
        )


@pytest.mark.process
def test_the_script_exits_1_with_the_package_to_install():
    result = subprocess.run([sys.executable, SCRIPT], env={**os.environ, **NO_GL}, capture_output=True, text=True)
    assert result.returncode == 1
    assert "sudo apt-get install -y libegl1 libgl1-mesa-dri" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert "FAIL  frames are drawn" in result.stdout


@pytest.mark.process
def test_training_gives_the_same_sentence(monkeypatch):
    for name, value in NO_GL.items():
        monkeypatch.setenv(name, value)
    findings = doctor.graphics()
    with pytest.raises(UserError) as caught:
        doctor.require_rendering(CHEETAH)
    assert str(caught.value) == findings[-1].advice
    doctor.require_rendering({**CHEETAH, "obs": "state"})
    doctor.require_rendering({"_target_": "worldmodels.envs.toy.Counter"})


def test_the_back_end_is_mine_or_egl_without_a_display():
    assert rendering.choose_backend({}) == "egl"
    assert rendering.choose_backend({"DISPLAY": ":0"}) == "glfw"
    assert rendering.choose_backend({"MUJOCO_GL": "osmesa"}) == "osmesa"
    chosen = {}
    rendering.choose_backend(chosen)
    assert chosen == {"MUJOCO_GL": "egl"}
    with pytest.raises(UserError, match="Did you mean 'osmesa'"):
        rendering.choose_backend({"MUJOCO_GL": "osmsa"})


def test_versions_are_listed():
    names = {finding.name for finding in doctor.versions()}
    assert {"python", "torch", "mujoco", "dm_control", "mujoco packages"} <= names
    assert {"CUDA", "bf16"} <= {finding.name for finding in doctor.accelerator()}
