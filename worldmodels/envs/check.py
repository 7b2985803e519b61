"""Checks an environment of one's own: ``python -m worldmodels.envs.check _target_=my.module.MyEnv key=value ...``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from worldmodels.common.build import TARGET
from worldmodels.common.trust import extend_trust
from worldmodels.envs import describe, make
from worldmodels.envs.base import check_spaces, require_finite
from worldmodels.envs.gym.making import module_of
from worldmodels.errors import UserError, reason, sentence

STEPS = 60
"""Steps that each check takes; episodes that end on the way are begun again."""
Record = list[tuple[dict[str, np.ndarray], float, bool, bool]]


def check(env: Mapping[str, Any], seed: int = 0, steps: int = STEPS) -> list[tuple[str, str]]:
    """Hold an environment (an ``env`` config group) to the contract. Return (name, "ok" or what is wrong) a check.

    The checks: the class builds; the spaces; every observation fits them and is finite; ``info["frames"]``; the same
    seed repeats; ``snapshot`` and ``restore`` are exact and survive the workers' transport;
    it runs in a worker process.
    """
    built = make(env, seed)
    checks: dict[str, Callable[[], None]] = {
        "spaces": lambda: check_spaces(describe(env), built.observation_space, built.action_space),
        "observations and rewards": lambda: _check_stream(built, env, steps),
        "same seed, same episodes": lambda: _check_seeds(env, seed, steps),
        "snapshot and restore": lambda: _check_snapshot(env, seed, steps),
        "runs in a worker": lambda: _check_worker(env, seed),
    }
    report = []
    try:
        for name, run in checks.items():
            report.append((name, _outcome(run)))
    finally:
        built.close()
    return report


def main(arguments: Sequence[str]) -> int:
    """Print one line a check. Return 0 if all hold, 1 otherwise."""
    from omegaconf import OmegaConf

    try:
        env = OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments)))
        named = [str(env.get(TARGET, "")).rpartition(".")[0], module_of(env.get("id"))]
        extend_trust(name for name in named if name)  # what is asked about by its name
        report = check(env)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name, outcome in report:
        sys.stdout.write(
            f"{'ok  ' if outcome == 'ok' else 'FAIL'}  {name}{'' if outcome == 'ok' else ': ' + outcome}\n"
        )
    return int(any(outcome != "ok" for _, outcome in report))


def _outcome(run: Callable[[], None]) -> str:
    try:
        run()
    except UserError as error:
        return str(error)
    except Exception as error:
        return reason(error)
    return "ok"


def _actions(env: gymnasium.Env, steps: int, seed: int = 0) -> Iterator[Any]:
    random = np.random.default_rng(seed)
    for _ in range(steps):
        if isinstance(env.action_space, gymnasium.spaces.Discrete):
            yield int(random.integers(env.action_space.n))
        elif isinstance(env.action_space, gymnasium.spaces.MultiDiscrete):
            yield random.integers(env.action_space.nvec)
        else:
            yield random.uniform(-1, 1, env.action_space.shape).astype(np.float32)


def _roll(env: gymnasium.Env, actions: Iterator[Any], over: bool) -> tuple[Record, bool]:
    """Roll out a stream that begins a new episode whenever one is over. Also return whether it stopped at an end."""
    record: Record = []
    for action in actions:
        if over:
            observation, _ = env.reset()
            row = (observation, 0.0, False, False)
        else:
            observation, reward, terminated, truncated, _ = env.step(action)
            row = (observation, float(reward), bool(terminated), bool(truncated))
        over = row[2] or row[3]
        record.append(({key: np.array(value) for key, value in row[0].items()}, *row[1:]))
    return record, over


def _difference(one: Record, two: Record) -> str:
    for t, (a, b) in enumerate(zip(one, two, strict=True)):
        for key in a[0]:
            if not np.array_equal(a[0][key], b[0][key]):
                return f"observation {key!r} differs {t + 1} steps on"
        if a[1:] != b[1:]:
            return f"reward or end differs {t + 1} steps on"
    return ""


def _check_stream(env: gymnasium.Env, config: Mapping[str, Any], steps: int) -> None:
    observation, _ = env.reset()
    for action in _actions(env, steps):
        if not env.observation_space.contains(observation):
            raise UserError("an observation lies outside observation_space (keys, shapes, dtypes or bounds).")
        observation, reward, terminated, truncated, info = env.step(action)
        require_finite(describe(config), observation, reward)
        frames = info.get("frames", 1)
        if not isinstance(frames, int | np.integer) or frames < 1:
            raise UserError(f"info['frames'] must be the number of control steps taken, at least 1, not {frames!r}.")
        if terminated or truncated:
            observation, _ = env.reset()


def _check_seeds(config: Mapping[str, Any], seed: int, steps: int) -> None:
    envs = [make(config, seed), make(config, seed)]
    records = [_roll(env, _actions(env, steps), over=True)[0] for env in envs]
    for env in envs:
        env.close()
    if difference := _difference(*records):
        raise UserError(f"two environments built from the same seed: {difference}; draw only from the given seed.")


def _check_snapshot(config: Mapping[str, Any], seed: int, steps: int) -> None:
    env, other = make(config, seed), make(config, seed + 1)
    for method in ("snapshot", "restore"):
        if not callable(getattr(env, method, None)):
            raise UserError(f"it has no method {method}(); training resumes and planning with the simulator need it.")
    _, over = _roll(env, _actions(env, max(steps // 4, 1)), over=True)
    snapshot = _transported(env.snapshot())
    expected, _ = _roll(env, _actions(env, steps, seed=1), over)
    for name, target in (("the same environment", env), ("another one", other)):
        target.restore(snapshot)
        again, _ = _roll(target, _actions(target, steps, seed=1), over)
        if difference := _difference(expected, again):
            raise UserError(f"restored into {name}: {difference}; the snapshot lacks something.")
    env.close()
    other.close()


def _transported(snapshot: Any) -> Any:
    """The snapshot after the way through a checkpoint, which takes only plain containers, numbers and arrays."""
    import io

    import torch

    from worldmodels.envs.plain import array_state, plain_state

    file = io.BytesIO()
    torch.save(plain_state(snapshot), file)
    file.seek(0)
    try:
        return array_state(torch.load(file, weights_only=True))
    except Exception as error:
        raise UserError(
            f"the snapshot holds more than plain containers, numbers, strings and arrays: {sentence(error)}"
        ) from error


def _check_worker(config: Mapping[str, Any], seed: int) -> None:
    import torch

    from worldmodels.envs.vector import VectorEnv

    with VectorEnv(config, 1, seed) as envs:
        envs.reset()
        envs.step(torch.zeros(1, envs.action_dim))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
