"""A recorded stream whose every row says exactly how it was reached, and checks of what is drawn from it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from worldmodels.data.replay import Replay

ENVS, STEPS = 3, 40
EPISODE = (5, 7, 11)  # rows an episode of each environment, its first frame included
SPEC = {
    "pixels": ((3, 4, 4), torch.uint8),
    "state": ((4,), torch.float32),  # (episode, step, the action taken to get here, the reward got here)
    "action": ((2,), torch.float32),
    "reward": ((), torch.float32),
    "is_first": ((), torch.bool),
    "is_last": ((), torch.bool),
    "is_terminal": ((), torch.bool),
    "memory.stoch": ((6,), torch.float32),
    "env": ((), torch.int64),
    "tick": ((), torch.int64),
}


def counter(start: int = 0) -> Iterator[dict[str, torch.Tensor]]:
    """Rows as a vector environment gives them; each environment's state says exactly how it was reached."""
    tick = start
    while True:
        env = torch.arange(ENVS)
        length = torch.tensor(EPISODE)
        episode, step = tick // length, tick % length
        first = step == 0
        # The policy's choice at the row before, which the environment then carried out.
        chosen = torch.where(first, 0.0, 1.0 + env + 10.0 * (tick - 1))
        reward = torch.where(first, 0.0, 0.5 + step)
        yield {
            "pixels": ((tick + 31 * env) % 256).to(torch.uint8).view(ENVS, 1, 1, 1).expand(ENVS, 3, 4, 4),
            "state": torch.stack([episode.float(), step.float(), chosen, reward], -1),
            "action": torch.stack([chosen, -chosen], -1),
            "reward": reward,
            "is_first": first,
            "is_last": step == length - 1,
            "is_terminal": (step == length - 1) & (episode % 2 == 0),
            "memory.stoch": (tick + env).float()[:, None].expand(ENVS, 6),
            "env": env,
            "tick": torch.full((ENVS,), tick),
            "frames": torch.ones(ENVS, dtype=torch.int64),
        }
        tick += 1


def make(path, **change) -> Replay:
    settings = {"spec": SPEC, "num_envs": ENVS, "capacity": ENVS * STEPS, "limit_gib": 1.0} | change
    return Replay(path / "replay", **settings)


def fill(replay: Replay, rows: int, start: int = 0) -> Replay:
    stream = counter(start)
    for _ in range(rows):
        replay.extend(next(stream))
    return replay


def draw(replay: Replay, length: int, batches: int = 60) -> dict[str, torch.Tensor]:
    drawn = [replay.sample(64, length) for _ in range(batches)]
    return {key: torch.cat([batch[key] for batch in drawn]) for key in drawn[0]}


def assert_unbroken(batch: dict[str, torch.Tensor]) -> None:
    assert (batch["env"] == batch["env"][:, :1]).all()
    assert (batch["tick"].diff(dim=1) == 1).all()


def assert_uniform(batch: dict[str, torch.Tensor], valid: set[tuple[int, int]]) -> None:
    """Starts are exactly the valid ones, and equally frequent: chi-square within five standard deviations."""
    starts = list(zip(batch["env"][:, 0].tolist(), batch["tick"][:, 0].tolist(), strict=True))
    assert set(starts) == valid
    expected = len(starts) / len(valid)
    assert expected > 20
    chi = sum((starts.count(start) - expected) ** 2 / expected for start in valid)
    degrees = len(valid) - 1
    assert abs(chi - degrees) < 5 * (2 * degrees) ** 0.5


def valid_starts(ticks: range, length: int, cross_resets: bool) -> set[tuple[int, int]]:
    starts = {(env, tick) for env in range(ENVS) for tick in ticks[: len(ticks) - length + 1]}
    if cross_resets:
        return starts
    return {(env, tick) for env, tick in starts if tick % EPISODE[env] + length <= EPISODE[env]}
