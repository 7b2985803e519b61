"""Finds out whether this machine can train: OpenGL that really draws, how fast, which versions, which accelerator."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from worldmodels.envs import make, rendering
from worldmodels.envs.stream import enter_worker, explain
from worldmodels.errors import UserError

DMC = "worldmodels.envs.dmc.DMC"
PACKAGES = ("torch", "lightning", "torchrl", "tensordict", "hydra-core", "gymnasium", "dm_control", "mujoco")
SOFTWARE = ("llvmpipe", "softpipe", "swrast", "swr", "software")
TIMEOUT = 60.0
"""Seconds in which a process must have started and drawn its frames."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``advice`` is what to do, and empty where all is well."""

    name: str
    value: str
    advice: str = ""


@dataclass(frozen=True)
class Drawing:
    """How one worker drew: ``renderer`` string, ``milliseconds`` a frame (median), and whether frames show anything."""

    renderer: str
    milliseconds: float
    blank: bool

    @property
    def software(self) -> bool:
        """Whether the CPU draws."""
        return any(word in self.renderer.lower() for word in SOFTWARE)


def examine(timeout: float = TIMEOUT) -> list[Finding]:
    """Everything :func:`main` prints, in order."""
    return [*versions(), *accelerator(), *graphics(timeout)]


def main() -> int:
    """Print the table. Return 0 if training from pixels will work, 1 with what to install if not."""
    import sys

    findings = examine()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        sys.stdout.write(f"{'FAIL' if finding.advice else 'ok  '}  {finding.name:<{width}}  {finding.value}\n")
    advice = [finding.advice for finding in findings if finding.advice]
    for sentence in dict.fromkeys(advice):
        sys.stderr.write(f"{sentence}\n")
    return int(bool(advice))


def require_rendering(env: Mapping[str, Any], timeout: float = TIMEOUT) -> None:
    """Raise the doctor's own sentence as a :class:`UserError` if ``env`` is a task to be drawn and no frame can be."""
    if env.get("_target_") != DMC or env.get("obs", "pixels") == "state":
        return
    if advice := mixed_mujoco():
        raise UserError(advice)
    draw(env, workers=1, frames=1, timeout=timeout)


def versions(installed: Iterable[tuple[str, str]] | None = None) -> list[Finding]:
    """The versions that matter, and MuJoCo's above all."""
    findings = [Finding("python", platform.python_version())]
    for package in PACKAGES:
        try:
            findings.append(Finding(package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(package, "missing", f"Install {package}: run `make setup`."))
    advice = mixed_mujoco(installed)
    return [*findings, Finding("mujoco packages", "mixed" if advice else "consistent", advice)]


def mixed_mujoco(installed: Iterable[tuple[str, str]] | None = None, library: str | None = None) -> str:
    """Return what is wrong with the set of MuJoCo packages, or "".

    ``installed`` lists (name, version), by default what this interpreter finds. A downgrade from 4 to 3 leaves
    ``mujoco-core`` 4 behind and the files of both mixed. They import, and then fail.
    """
    mend = "run `pip uninstall -y mujoco mujoco-core && pip install 'mujoco>=3.17,<4'`."
    found: dict[str, set[str]] = {"mujoco": set(), "mujoco-core": set()}
    if installed is None:
        installed = [(item.metadata["Name"] or "", item.version) for item in importlib.metadata.distributions()]
    for name, version in installed:
        if (key := name.lower().replace("_", "-")) in found:
            found[key].add(version)
    own, core = found["mujoco"], found["mujoco-core"]
    if not own:
        return f"MuJoCo is not installed: {mend}"
    if len(own) > 1 or (core and core != own):
        listed = ", ".join([*(f"mujoco {v}" for v in sorted(own)), *(f"mujoco-core {v}" for v in sorted(core))])
        return f"MuJoCo packages of different versions are mixed ({listed}): {mend}"
    version = next(iter(own))
    if int(version.split(".")[0]) >= 4:
        return f"MuJoCo {version} is too new for dm_control: {mend}"
    library = library or _library_version()
    if library != version:
        return f"The package mujoco {version} loads a MuJoCo library that says {library}: {mend}"
    return ""


def accelerator() -> list[Finding]:
    """Report CUDA and bf16. Neither is needed, so neither fails."""
    import torch

    if not torch.cuda.is_available():
        unused = Path("/dev/nvidia0").exists()
        why = (
            f"a GPU is there, but this torch ({torch.__version__}) cannot use it"
            if unused
            else "training runs on the CPU"
        )
        return [Finding("CUDA", f"none ({why})"), Finding("bf16", "no GPU; on a CPU fp32 is the safe choice")]
    return [
        Finding("CUDA", f"{torch.version.cuda}, {torch.cuda.get_device_name()}"),
        Finding("bf16", "yes" if torch.cuda.is_bf16_supported(including_emulation=False) else "no, use fp32"),
    ]


def graphics(timeout: float = TIMEOUT) -> list[Finding]:
    """Back end, renderer, whether frames are drawn, and milliseconds a frame for 1, 2, 4, … workers at once."""
    env = {"_target_": DMC, "task": "cheetah_run", "size": 64}
    try:
        backend = rendering.choose_backend()
    except UserError as error:
        return [Finding("OpenGL back end", "unknown", str(error))]
    findings = [Finding("OpenGL back end", f"{rendering.VARIABLE}={backend}")]
    try:
        [first] = draw(env, 1, timeout=timeout)
        findings += [
            Finding("OpenGL renderer", f"{first.renderer} ({'software' if first.software else 'hardware'})"),
            Finding("frames are drawn", "yes"),
            Finding("ms a frame, 1 worker, 64x64", f"{first.milliseconds:.1f}"),
        ]
        [fast] = draw({**env, "render": {"quality": "fast"}}, 1, timeout=timeout)
        findings.append(Finding("ms a frame, render.quality=fast", f"{fast.milliseconds:.1f}"))
        workers = 2
        while workers <= min(os.cpu_count() or 1, 8):
            drawings = draw(env, workers, timeout=timeout)
            each = statistics.median(drawing.milliseconds for drawing in drawings)
            findings.append(Finding(f"ms a frame, each of {workers} workers", f"{each:.1f}"))
            workers *= 2
    except UserError as error:
        findings.append(Finding("frames are drawn", "no", str(error)))
    return findings


def draw(env: Mapping[str, Any], workers: int, frames: int = 30, timeout: float = TIMEOUT) -> list[Drawing]:
    """Have ``workers`` processes draw ``env`` at the same time.

    Raises :class:`UserError` where one fails, dies, draws nothing, or takes longer than ``timeout`` seconds.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(workers)
    pipes = [context.Pipe(duplex=False) for _ in range(workers)]
    processes = [
        context.Process(target=_draw, args=(dict(env), frames, barrier, sender, timeout), daemon=True)
        for _, sender in pipes
    ]
    for process, (_, sender) in zip(processes, pipes, strict=True):
        process.start()
        sender.close()
    deadline = time.monotonic() + timeout
    try:
        return [
            _collect(receiver, process, deadline, timeout)
            for (receiver, _), process in zip(pipes, processes, strict=True)
        ]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _collect(
    receiver: Connection, process: multiprocessing.process.BaseProcess, deadline: float, timeout: float
) -> Drawing:
    if not receiver.poll(max(deadline - time.monotonic(), 0)):
        other = "osmesa" if rendering.choose_backend() != "osmesa" else "egl"
        raise UserError(
            f"The {rendering.choose_backend()} driver hangs: nothing was drawn within {timeout:g} s; run "
            f"`{rendering.APT[other]}` and set {rendering.VARIABLE}={other}."
        )
    try:
        answer = receiver.recv()
    except EOFError:
        process.join(1)
        raise UserError(rendering.advice(f"the drawing process died with exit code {process.exitcode}")) from None
    if isinstance(answer, str):
        raise UserError(answer)
    if answer.blank:
        raise UserError(rendering.advice("the frames it draws are blank"))
    return answer


def _draw(env: dict[str, Any], frames: int, barrier: Barrier, sender: Connection, timeout: float) -> None:
    """Runs in the spawned process."""
    enter_worker(env)
    try:
        built = make(env, seed=0)
        built.reset()
        barrier.wait(timeout)
        times = []
        for _ in range(frames):
            start = time.perf_counter()
            frame = built.render()
            times.append(1000 * (time.perf_counter() - start))
        sender.send(
            Drawing(
                built.get_wrapper_attr("renderer")(), statistics.median(times), bool((frame == frame.flat[0]).all())
            )
        )
        built.close()
    except Exception as error:
        sender.send(explain(error))


def _library_version() -> str:
    """Return the version that the shared library itself gives.

    The package is not imported: it may not survive being mixed.
    """
    spec = importlib.util.find_spec("mujoco")
    files = sorted(Path(next(iter(spec.submodule_search_locations))).glob("libmujoco.*")) if spec else []
    if len(files) != 1:
        return " and ".join(file.name for file in files) or "nothing, as it is missing"
    library = ctypes.CDLL(str(files[0]))
    library.mj_versionString.restype = ctypes.c_char_p
    return library.mj_versionString().decode()
