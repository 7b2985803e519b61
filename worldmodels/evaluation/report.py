"""Scores of a run, and pictures of what it imagines: `evaluate.py`, `imagine.py`, and a training's end."""

from __future__ import annotations

import json
import logging
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from planners.search.memory_budget import require_memory
from worldmodels.common import precision
from worldmodels.common.batch import split_context
from worldmodels.common.columns import PIXELS, cameras
from worldmodels.common.figures import write_figure
from worldmodels.common.files import FRAMES, read_rows, require_writable, write_json
from worldmodels.common.frames import enlarge, gif_bytes, last_frame, write_png
from worldmodels.common.video import write_video as frames_video
from worldmodels.config.departures import departures
from worldmodels.data.import_dataset import replay_folder
from worldmodels.data.replay import Replay
from worldmodels.errors import UserError
from worldmodels.evaluation.baselines import baselines
from worldmodels.evaluation.rollout import EPISODES_AT_ONCE, EpisodeBatch, evaluate, evaluate_oracle, table
from worldmodels.factory import build_model, build_planner, construct
from worldmodels.nets.encoders import pixels_to_float
from worldmodels.runs.folders import observation_spec, read_config
from worldmodels.runs.loading import Run
from worldmodels.visualization.imagination import OpenLoop, draw_clips, draw_errors, draw_returns, draw_strip, open_loop

log = logging.getLogger(__name__)

UNTOLD_RATE = 30
"""Steps in a second of an environment that does not tell, as Gymnasium takes it."""


def results_folder(run: str, words: list[str], to: str | None = None) -> Path:
    """Return the folder for a run's scores: ``to``, or one of its own for a variant, or else the run's.

    No variant then replaces another's scores. Words that change nothing but where or how fast it runs count too: what
    was said is what the folder is called.

    Raises:
        UserError: it cannot be written.
    """
    read_config(Path(run))  # no folder is made beside a mistake
    folder = Path(to or run)
    if words and not to:
        folder = folder / "evaluations" / short_name(",".join(sorted(words)).replace("/", "-"))
        log.info("with %s: scores go into %s", " ".join(words), folder)
    require_writable(folder)
    return folder


def short_name(name: str, longest: int = 200) -> str:
    """Cut a name to so many bytes, which a disk counts, and not letters."""
    return name.encode()[:longest].decode(errors="ignore")


def score(run: Run, episodes: int, seed: int) -> EpisodeBatch:
    """Write ``evaluation.json``, a video of the first episode and a plan. Return the stochastic episodes."""
    played = {explore: play_held_out(run, episodes, seed, explore) for explore in (False, True)}
    untrained = with_random_weights(run)
    explore = run.cfg.evaluation.explore
    beside = {"untrained": statistics.fmean(play_held_out(untrained, episodes, seed, explore).returns)}
    write_scores(run, run.path / "evaluation.json", played, seed, beside)
    if "pixels" in played[False].rows:
        write_video(run, played[False])
    for picture in run.cfg.visualization.values():
        construct(picture, run=run, seed=seed)
    return played[True]


def score_on_simulator(run: Run, episodes: int, seed: int) -> None:
    """Write ``evaluation_simulator.json``: the run's planner with the simulator for a model, on the same episodes."""
    amp = precision.acting_context(run.cfg.trainer, run.model.device)
    played = {
        explore: evaluate_oracle(
            run.cfg.env, run.planner, episodes, seed, explore, run.model, amp, run.cfg.evaluation.max_steps
        )
        for explore in (False, True)
    }
    path = run.path / "evaluation_simulator.json"
    write_scores(run, path, played, seed, {}, model="simulator")
    content = json.loads(path.read_text())  # under its name before, for one release
    write_json(run.path / "evaluation_oracle.json", content | {"model": "oracle"})


def write_scores(
    run: Run, path: Path, played: dict[bool, EpisodeBatch], seed: int, beside: dict[str, float], model: str = "learned"
) -> None:
    """Returns without and with exploration, beside what needs no learning and ``beside``: a file and a table.

    The score is of those that ``evaluation.explore`` says.
    """
    scored = played[run.cfg.evaluation.explore]
    returns, episodes = scored.returns, len(scored.returns)
    result = {
        "model": model,
        "return_mean": statistics.fmean(returns),
        "return_std": statistics.pstdev(returns),
        "explore": run.cfg.evaluation.explore,
        "return_deterministic_mean": statistics.fmean(played[False].returns),
        "return_stochastic_mean": statistics.fmean(played[True].returns),
        "episodes": episodes,
        "planner": run.cfg.choices.planner,
        "frames": run.frames,
        "seed": run.cfg.seed,
        "evaluation_seed": seed,
        "returns": returns,
        "returns_deterministic": played[False].returns,
        "returns_stochastic": played[True].returns,
        "baselines": baselines(run, episodes, seed) | beside,
    }
    if run.cfg.published:
        result["published"], result["departures"] = run.cfg.published, departures(run.cfg)
    successes, floor = scored.successes(), result["baselines"]["random"]
    if successes is not None:
        result["success_rate"], result["successes"] = statistics.fmean(successes), successes
    if scored.cut:
        result["episodes_cut"], result["max_steps"] = scored.cut, run.cfg.evaluation.max_steps
    ceiling = result["baselines"].get("reference", floor)
    if ceiling > floor:  # D4RL's way: 0 is random, 100 the expert
        result["normalized_score"] = 100 * (result["return_mean"] - floor) / (ceiling - floor)
        result["normalised_score"] = result["normalized_score"]  # its name before, for one release
    write_json(path, result)
    log.info("\n%s\n", table(result))


def play_held_out(run: Run, episodes: int, seed: int, explore: bool = True) -> EpisodeBatch:
    """Episodes that no training has seen, played by the run's planner."""
    amp = precision.acting_context(run.cfg.trainer, run.model.device)
    require_memory(run.model, run.planner, min(episodes, EPISODES_AT_ONCE), run.model.device)
    max_steps = run.cfg.evaluation.max_steps
    return evaluate(run.cfg.env, run.model, run.planner, episodes, seed, explore, amp, max_steps)


def with_random_weights(run: Run) -> Run:
    """The run before any training, of its world model and of what its planner learns."""
    model = build_model(run.cfg, observation_spec(run.checkpoint), run.action_dim)
    features = model.dynamics.feature_spec
    planner = build_planner(run.cfg.planner, run.action_dim, run.discrete, features, run.cfg.seed, run.cfg.nets)
    device = run.model.device
    return replace(run, model=model.to(device).eval(), planner=planner.to(device).eval())


def write_video(run: Run, episodes: EpisodeBatch) -> None:
    """Write the first evaluation episode as a video, as fast as its environment says that it is."""
    frames = last_frame(episodes.rows["pixels"][0, : episodes.lengths[0]]).permute(0, 2, 3, 1).numpy()
    rate = episodes.frame_rate
    if rate is None:
        rate = UNTOLD_RATE / run.cfg.env.get("action_repeat", 1)
        log.info("the environment tells no render_fps in its metadata: its video has %g frames a second", rate)
    frames_video(run.path, "evaluation", np.stack([enlarge(f, 256) for f in frames]), rate)


def windows(episodes: EpisodeBatch, length: int, to_the_end: bool = False) -> dict[str, Tensor]:
    """Consecutive, non-overlapping windows of ``length`` rows within each episode, [W, length, ...].

    ``to_the_end``: also one that ends with each episode, whatever it overlaps, so that ends are among them.
    """
    spans = [(n, start) for n, end in enumerate(episodes.lengths) for start in range(0, end - length + 1, length)]
    if to_the_end:
        spans += [(n, end - length) for n, end in enumerate(episodes.lengths) if end > length and end % length]
    if not spans:
        raise UserError(
            f"no held-out episode has the {length} steps that an open-loop clip takes: lower context or imag_horizon."
        )
    return {key: torch.stack([rows[n, s : s + length] for n, s in spans]) for key, rows in episodes.rows.items()}


def mean_frame(replay: Replay, camera: str = PIXELS, rows: int = 2000) -> Float[Tensor, "C H W"]:
    """Mean of frames drawn from what the model was trained on."""
    return pixels_to_float(last_frame(replay.sample(rows, 1)[camera])).mean((0, 1))


def image_errors(
    run: Run,
    batch: dict[str, Tensor],
    mean: Tensor,
    context: int,
    imag_horizon: int,
    futures: int,
    camera: str = PIXELS,
) -> dict[str, Any]:
    """Return the mean squared image error against imagined steps, beside what needs no model. Also one future's clip.

    A model's forecast is the mean image of ``futures`` sampled ones: one sample of an uncertain future errs twice as
    much as its mean, and what it is compared with, a blend with the mean frame, is a mean too.
    """
    device = run.model.device
    _, batch = split_context({key: value.to(device) for key, value in batch.items()}, 0)
    shuffled = dict(batch)
    order = torch.randperm(len(batch["action"]), generator=torch.Generator().manual_seed(0))
    shuffled["action"] = torch.cat([batch["action"][:, :context], batch["action"][order][:, context:]], dim=1)

    def imagine(data: dict[str, Tensor]) -> tuple[OpenLoop, Tensor]:
        state = run.model.initial(len(data["action"]))
        first, total = None, 0.0
        for future in range(futures):  # each with a seed of its own, which the filtering draws from too
            generator = torch.Generator(device).manual_seed(future)
            clip = open_loop(run.model, data, state, context, imag_horizon, generator, camera)
            first, total = first or clip, total + clip.model
        return first, OpenLoop(first.truth, total / futures, context).error()

    clip, error = imagine(batch)
    single_error, (_, shuffled_error) = clip.error(), imagine(shuffled)
    truth = clip.truth[:, context:]
    last = clip.truth[:, context - 1 : context]
    # The best share of the mean frame at each step, in hindsight: the strongest predictor that looks at no action.
    toward = mean.to(device) - last
    room = toward.square().sum().clamp(min=1e-12)  # 0 where frames are all black, for example
    share = ((truth - last) * toward).sum((0, 2, 3, 4)) / room
    blend = last + share[None, :, None, None, None] * toward
    errors = {
        "steps": list(range(1, imag_horizon + 1)),
        "model_error": error.tolist(),
        "last_frame_error": (truth - last).square().mean((0, 2, 3, 4)).tolist(),
        "blend_error": (truth - blend).square().mean((0, 2, 3, 4)).tolist(),
        "shuffled_action_error": shuffled_error.tolist(),
        "single_future_error": single_error.tolist(),
        "windows": len(batch["action"]),
        "context": context,
        "futures": futures,
    }
    return {"errors": errors, "clip": clip}


def score_imagination(
    run: Run, held_out: EpisodeBatch, context: int, imag_horizon: int, futures: int, folder: Path
) -> None:
    """Write ``imagine.json``, clips as GIF and PNG, and the error curves, all into ``folder``.

    Of a further camera under its name: ``imagine_<name>.json`` and so on.
    """
    if not cameras(held_out.rows):
        log.info("no pixels are observed in this run: there is no image to imagine")
        return
    replay = Replay.open(replay_folder(run.cfg.data.dataset, run.path / "replay"))
    batch = windows(held_out, context + imag_horizon)
    for camera in cameras(held_out.rows):
        name = f"imagine{camera.removeprefix(PIXELS)}"
        made = image_errors(run, batch, mean_frame(replay, camera), context, imag_horizon, futures, camera)
        errors, clip = made["errors"], made["clip"]
        write_json(folder / f"{name}.json", errors)
        (folder / f"{name}.gif").write_bytes(gif_bytes(draw_clips(clip)))
        write_png(folder / f"{name}.png", draw_strip(clip))
        curves = {key.removesuffix("_error"): torch.tensor(errors[key]) for key in errors if key.endswith("_error")}
        write_figure(folder / f"{name}_errors.png", draw_errors(curves))
        log.info("%s\n%s\n", "" if camera == PIXELS else f"camera {camera}", error_table(errors))


def error_table(errors: dict[str, Any]) -> str:
    """Image error against step, as people read it."""
    names = [key for key in errors if key.endswith("_error")]
    lines = [f"{'step':>5}" + "".join(f"{name.removesuffix('_error'):>16}" for name in names)]
    last = len(errors["steps"])
    shown = [step for step in sorted({1, 2, 5, 10, 15, 20, 30, 50, last}) if step <= last]
    lines += [f"{step:>5}" + "".join(f"{errors[name][step - 1]:>16.5f}" for name in names) for step in shown]
    return "\n".join(lines)


def draw_curve(run: Run) -> None:
    """Write ``returns.png``: the training's episodes, with the evaluation and its best baseline as lines."""
    rows = [row for row in read_rows(run.path / "metrics.csv") if row.get("episode/return")]
    if not rows:
        return
    result = json.loads((run.path / "evaluation.json").read_text())
    best = max(result["baselines"], key=result["baselines"].get)
    levels = {"evaluation": result["return_mean"], f"{best} (best baseline)": result["baselines"][best]}
    frames, returns = [int(row[FRAMES]) for row in rows], [float(row["episode/return"]) for row in rows]
    write_figure(run.path / "returns.png", draw_returns(frames, returns, levels))


def evaluate_finished_run(run: Run, cfg: DictConfig) -> None:
    """Score a training at its end, and write its pictures."""
    held_out = score(run, cfg.evaluation.episodes, cfg.evaluation.seed)
    draw_curve(run)
    try:
        settings = cfg.evaluation
        score_imagination(run, held_out, settings.context, settings.imag_horizon, settings.futures, run.path)
    except UserError as error:  # what was learned and scored stays as it is
        log.warning("imagination was not scored, imagine.* are missing or older: %s", error)
