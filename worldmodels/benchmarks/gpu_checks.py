"""What `scripts/gpu_check.py` checks, the most valuable first. To add a check, add a row to :func:`all_checks`."""

from __future__ import annotations

import csv
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.autograd import DeviceType

from worldmodels.benchmarks import agreement, launches, loop, planning
from worldmodels.benchmarks.backbones import measure_subject
from worldmodels.benchmarks.check_runner import Check, Setting, Tell
from worldmodels.benchmarks.peak import PeakMemory
from worldmodels.benchmarks.subjects import subjects
from worldmodels.benchmarks.training import benchmark, milliseconds
from worldmodels.common.terminal import CtrlC
from worldmodels.config import load_config
from worldmodels.envs.vector import VectorEnv
from worldmodels.errors import UserError
from worldmodels.training.run import fit
from worldmodels.training.setup import assemble

BACKBONES = ("rssm", "transformer", "mamba", "ssm", "s4d", "koopman", "implicit")
SEQUENCES = (*(f"{name} obs" for name in BACKBONES[:-1]), "implicit", *(f"{name} filter" for name in BACKBONES[:-1]))
"""Subjects of suite=backbones, those first that learn from all steps at once."""
LEARNERS = ("tdmpc", "actor_critic")
PRESETS = {
    "dreamerv3 size=s": ("experiment=dreamerv3", "size=s"),
    "tdmpc2": ("experiment=tdmpc2",),
    "default": (),
    "dreamerv3_state": ("experiment=dreamerv3_state",),
    "tdmpc2_pixels": ("experiment=tdmpc2_pixels",),
    "dreamerv3": ("experiment=dreamerv3",),
    "dreamer_cpu": ("experiment=dreamer_cpu",),
    "tdmpc2_cpu": ("experiment=tdmpc2_cpu",),
}
"""Presets that are timed, at their own sizes."""
FIRST, FEW = 3, 2
"""How many of a kind come first, and how many are tried where there is no GPU."""
WAITING = ("default", "dreamerv3_state", "planner=tdmpc")
COUNTED = ("default", "dreamerv3", "tdmpc2", "dynamics=rssm obs", "planner=diffusion")
"""Subjects of suite=launches whose waits and operators are told."""
SMALL = ("size=xxs", "data.batch_size=2", "env.num_envs=2")
"""Sizes where there is no GPU."""
TOY = ("env=counter", "env.lengths=[40]", "data.length=16", "train_ratio=16", *SMALL)
LEARN_SECONDS = 45
LEARNING = ("env.obs=state", "env.num_envs=16", "prefill=8000", "frames=400000", "train_ratio=56")


def all_checks(small: bool) -> list[Check]:
    """Return every check, the most valuable first, or one or a few of each kind.

    The seconds are more than a check should take on a GPU.
    """
    presets, backbones = list(PRESETS), BACKBONES[1:]
    learned = {f"dynamics={name}": (f"dynamics={name}", "planner=random") for name in BACKBONES}
    learned |= {f"planner={name}": (f"planner={name}",) for name in LEARNERS}
    compiled = [Check(f"agreement: compiled {name}", partial(compile_one, words=w), 100) for name, w in learned.items()]
    waits = [Check(f"waits: {name}", partial(wait_for, name=name), 20) for name in WAITING]
    updates = [Check(f"updates: {name}", partial(update, words=PRESETS[name]), 40) for name in presets]
    parts = [Check(f"updates: dynamics={name}", partial(update, words=(f"dynamics={name}",)), 25) for name in backbones]
    lengths = [Check(f"lengths: {name}", partial(lengthen, name=name), 45) for name in SEQUENCES]
    first, few = (FEW, FEW) if small else (FIRST, None)
    return [
        Check("agreement: devices", agree_everywhere, 45),
        *compiled[:1],
        *waits,
        *updates[:first],
        Check("learning: cartpole_swingup from state", learn, LEARN_SECONDS + 30),
        Check("planning: TD-MPC2's sizes", plan, 60),
        Check("acting: 16 environments", act, 45),
        *lengths[:first],
        Check("rendering: workers", render, 60),
        Check("launches: suite=launches", launch, 60),
        Check("loop: default", spend, 60),
        *updates[first:few],
        *parts[:few],
        *lengths[first:few],
        *compiled[1:few],
    ]


def agree_everywhere(setting: Setting, tell: Tell) -> None:
    """Hold an update of each backbone on the device to that on the CPU, and in bf16 to that in fp32."""
    wrong, limits = [], {"device": agreement.TOLERANCE, "bf16": agreement.ROUGH}
    for name in BACKBONES:
        words = (f"dynamics={name}", "planner=random")
        exact = agreement.outcome(words, torch.device("cpu"))
        eager = agreement.outcome(words, setting.device)
        rough = agreement.outcome(words, setting.device, "bf16")
        found = {
            "device": agreement.difference(exact, eager)[0],
            "bf16": agreement.difference(agreement.losses_of(eager), agreement.losses_of(rough))[0],
        }
        tell({name: found})
        wrong += agreement.disagreements(found, limits, name)
    agreement.require_none(wrong)


def compile_one(setting: Setting, tell: Tell, words: Sequence[str]) -> None:
    """Hold a compiled update to the eager one. Without a GPU only the tracing is tried, which takes seconds."""
    found: dict[str, Any] = {}
    ways = setting.pick((("inductor", 1), (agreement.GRAPHS, agreement.REPLAYED)), (("aot_eager", 1),))
    for backend, repeats in ways:
        eager, start = agreement.outcome(words, setting.device, repeats=repeats), time.perf_counter()
        compiled = agreement.outcome(words, setting.device, backend=backend, repeats=repeats)
        (apart, worst), graphs = agreement.difference(eager, compiled), agreement.graphs()
        found[backend] = {"difference": apart, "worst": worst, "seconds": time.perf_counter() - start, **graphs}
        tell({words[0]: found})
        if not graphs["graphs"]:
            raise UserError(f"{words[0]} was not compiled at all.")
        agreement.require_none(agreement.disagreements({backend: apart}, {backend: agreement.TOLERANCE}, words[0]))


def wait_for(setting: Setting, tell: Tell, name: str) -> None:
    """Tell what an update and a plan wait for. On a GPU any wait is a failure."""
    parts = launches.parts_of(launches.make([*launches.SUBJECTS[name], *setting.pick((), SMALL)], setting.device))
    found = {}
    for what in ("update", "plan"):
        parts[what]()
        found[what] = agreement.waits(parts[what], setting.device)
        tell({what: found[what]})
    if setting.device.type == "cuda" and any(found.values()):
        told = "; ".join(f"{what} at {', '.join(places)}" for what, places in found.items() if places)
        raise UserError(f"the host waits for the GPU: {told}.")


def update(setting: Setting, tell: Tell, words: Sequence[str]) -> None:
    """Time an update, a plan and the filtering of a frame of a preset, in fp32 and bf16, on made-up rows."""
    for how in ("fp32", "bf16"):
        more = [*words, f"trainer.precision={how}", *setting.pick((), SMALL)]
        parts = launches.parts_of(launches.make(more, setting.device))
        with PeakMemory(setting.device) as memory:
            parts["update"]()
        repeats = setting.pick(10, 1)
        times = {name: milliseconds(part, repeats, setting.device) for name, part in parts.items()}
        tell({how: times | {"update_mb": memory.megabytes} | kernels(parts["update"], setting)})


def kernels(call: Any, setting: Setting) -> dict[str, float]:
    """Count what a call launches on a GPU, and the milliseconds for which that is busy. Nothing elsewhere."""
    if setting.device.type != "cuda":
        return {}
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    ran = [one for one in profile.events() if one.device_type == DeviceType.CUDA and not one.is_user_annotation]
    return {"kernels": len(ran), "busy_ms": sum(event.time_range.elapsed_us() for event in ran) / 1000}


def launch(setting: Setting, tell: Tell) -> None:
    """Count operators and waits as suite=launches does."""
    for name in setting.pick(COUNTED, COUNTED[:1]):
        words = [*launches.SUBJECTS[name], *setting.pick((), SMALL)]
        tell({name: {"subject": name, **launches.count_all(words)}})


def plan(setting: Setting, tell: Tell) -> None:
    """Time a decision of every planner, for one environment and for 16, as suite=planning does."""
    envs = setting.pick((1, 16), (1, 2))
    for name in setting.pick(planning.PLANNERS, ("mppi", "tdmpc", "actor_critic", "random")):
        words = setting.pick([], ["size=xxs"])
        tell({name: planning.time_planner(name, words, setting.pick(10, 1), envs)})


def act(setting: Setting, tell: Tell) -> None:
    """Time acting and an update with 16 environments that draw nothing, as suite=training does."""
    words = setting.pick(["env.obs=state", "env.num_envs=16"], [*TOY])
    with tempfile.TemporaryDirectory() as folder:
        tell(benchmark(words, setting.pick(10, 2), str(Path(folder) / "x.json"))["milliseconds"])


def render(setting: Setting, tell: Tell) -> None:
    """Time a step that draws 64x64 pixels at full quality, with several numbers of workers."""
    cfg = load_config(["env.size=64", "env.render.quality=full", "env.step_timeout=20"])
    for workers in setting.pick((1, 4, 8), (1, 2)):
        with VectorEnv(cfg.env, workers, cfg.seed, cfg.env.step_timeout) as envs:
            envs.reset()
            action = torch.zeros(workers, envs.action_dim)
            step = milliseconds(lambda envs=envs, action=action: envs.step(action), 20, torch.device("cpu"))
        tell({f"{workers}": step | {"frames_per_second": 1000 * workers / step["median"]}})


def lengthen(setting: Setting, tell: Tell, name: str) -> None:
    """Measure a backbone against the length of its sequences, as suite=backbones does."""
    parameters, batch, repeats = setting.pick((1_000_000, 4, 3), (100_000, 2, 1))
    known, threads = setting.pick((64, 256, 1024, 4096), (8, 16)), torch.get_num_threads()
    subject = next(one for one in subjects(name.split()[0], parameters, []) if str(one) == name)
    ours, theirs = multiprocessing.Pipe(duplex=False)
    reader = threading.Thread(target=pass_on, args=(ours, {"name": name, "costs": {}}, tell))
    reader.start()
    try:
        measure_subject(theirs, subject, known, (10, 100), batch, repeats, threads, "auto")
    finally:
        theirs.close()
        reader.join()


def pass_on(pipe: Connection, result: dict[str, Any], tell: Tell) -> None:
    """Tell whatever comes through a pipe, added to what came before, until it is closed."""
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        result |= {**message, "costs": result["costs"] | message.get("costs", {})}
        tell({result["name"]: dict(result)})


def spend(setting: Setting, tell: Tell) -> None:
    """Break a second of training into its parts, as suite=loop does."""
    words = setting.pick([], [*TOY])
    with tempfile.TemporaryDirectory() as folder:
        tell(loop.measure(words, setting.pick(50, 5), str(Path(folder) / "x.json")))


def learn(setting: Setting, tell: Tell) -> None:
    """Learn for most of the time, and hold the last losses to the first ones. Tell the returns of episodes too."""
    words = setting.pick(LEARNING, (*TOY, "frames=400", "prefill=100"))
    cfg = load_config(
        [*words, f"trainer.log_every={setting.pick(10, 1)}", "trainer.loggers=[]", "trainer.checkpoint_minutes=1e6"]
    )
    lightning.seed_everything(cfg.seed, verbose=False)
    with tempfile.TemporaryDirectory() as name:
        folder, ctrl_c = Path(name), CtrlC()
        with assemble(cfg, folder, ctrl_c) as training:
            training.trainer.callbacks.append(Deadline(ctrl_c, time.monotonic() + LEARN_SECONDS))
            fit(training, None)
            data = training.data.dataset
            tell({"updates": data.updates, "frames": data.frames})
        with (folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    losses, returns = ([float(row[key]) for row in rows if row.get(key)] for key in ("loss/total", "episode/return"))
    tenth = max(1, len(losses) // 10)
    first, last = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    tell({"first_loss": first, "last_loss": last, "returns": returns[-200:]})
    if not last < first:
        raise UserError(f"nothing was learned: losses of {first:.4g} at first and of {last:.4g} at last.")


class Deadline(lightning.Callback):
    """Asks for an orderly stop at a time of the monotonic clock."""

    def __init__(self, ctrl_c: CtrlC, until: float) -> None:
        self.ctrl_c, self.until = ctrl_c, until

    def on_train_batch_start(self, *_: Any) -> None:
        """Look at the clock."""
        self.ctrl_c.pressed = self.ctrl_c.pressed or time.monotonic() > self.until
