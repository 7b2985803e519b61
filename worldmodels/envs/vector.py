"""Several environments in worker processes, stepped together, each a stream of rows exactly as replay stores them.

``worldmodels/data/replay.py`` draws the rows over time. After a row with ``is_last`` the next step begins the next
episode, and the action given to it is ignored (next-step autoreset).
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from typing import Annotated, Any

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from jaxtyping import Float
from torch import Tensor

from worldmodels.common.options import Count, MoreThan, checked
from worldmodels.common.seeds import HELD_OUT, derive_seed
from worldmodels.common.terminal import tell_once
from worldmodels.envs import describe
from worldmodels.envs.backends import backend_of
from worldmodels.envs.base import kind_of
from worldmodels.envs.plain import array_state, plain_config, plain_state
from worldmodels.envs.pool import Pool
from worldmodels.envs.probe import probe, require_memory
from worldmodels.envs.stream import kill, without_interrupts
from worldmodels.errors import UserError, sentence
from worldmodels.nets.choices import indices, likeliest, sizes_of

log = logging.getLogger(__name__)

Rows = dict[str, Tensor]
"""Observation keys, ``action`` [N, A], ``reward`` [N], ``is_first``/``is_last``/``is_terminal`` [N], ``frames`` [N],
``success`` [N] (1 and 0, -1 where an environment does not tell)."""
START_SECONDS = 120.0
"""How long building the environments may take, whatever a step may."""
CLOSE_SECONDS = 10.0


class _Hanging(UserError):
    """A worker has not answered in time."""


class VectorEnv:
    """``num_envs`` spawned workers with shared memory, one seed each. Failures are named, nothing waits for ever.

    With ``backend: envpool`` they are that library's threads (:mod:`worldmodels.envs.pool`), which nobody can end.

    After an error of :meth:`reset` or :meth:`step`, or of a worker that dies or hangs, every worker is gone: close this
    one and make another. Raises :class:`UserError` for an environment that cannot be built, raises, returns NaN, dies
    or takes more than ``timeout`` seconds over a step.
    """

    @checked
    def __init__(
        self, env: Mapping[str, Any], num_envs: Count, seed: int, timeout: Annotated[float, MoreThan(0)] = 60.0
    ) -> None:
        env = plain_config(env)
        self.name, self.num_envs, self.timeout = describe(env), num_envs, timeout
        self._failure: UserError | None = None
        self._envs: AsyncVectorEnv | Pool | None = None
        self._acted: Tensor | None = None
        open_backend = backend_of(env)
        probed = probe(env, seed, max(timeout, START_SECONDS))
        require_memory(self.name, num_envs, probed.size)
        for note in probed.notes:
            tell_once(log, note)
        self.frames_per_decision = probed.frames_per_step * int(env.get("action_repeat", 1))
        self.episode_decisions = probed.episode_decisions
        self._open = partial(open_backend, env, num_envs, seed, probed)
        self._start()
        observation, action = probed.spaces
        self.discrete, self.action_dim = kind_of(action)
        self._sizes = sizes_of(self.action_dim, self.discrete)
        self.observation_spec: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            key: (tuple(space.shape), torch.uint8 if space.dtype == np.uint8 else torch.float32)
            for key, space in observation.items()
        }

    def _start(self) -> None:
        with without_interrupts(), self._naming_the_culprit():
            self._envs = self._open()

    @property
    def pids(self) -> list[int]:
        """The workers' process ids, in order."""
        return [process.pid for process in self._running().processes]

    def reset(self) -> Rows:
        """Begin a new episode everywhere."""
        envs, seconds = self._running(), max(self.timeout, START_SECONDS)
        with self._naming_the_culprit(seconds):
            envs.reset_async()
            observation, info = envs.reset_wait(seconds)
        no = np.zeros(self.num_envs, bool)
        return self._rows(observation, torch.zeros(self.num_envs, self.action_dim), no, no, no, info)

    def step(self, action: Float[Tensor, "N A"]) -> Rows:
        """Take one step everywhere. Where an episode has just ended, begin the next one and ignore the action."""
        self.begin_step(action)
        return self.end_step()

    def begin_step(self, action: Float[Tensor, "N A"]) -> None:
        """Let the workers take one step. Before :meth:`end_step` nothing else may be asked of them."""
        envs, action = self._running(), self._clean(action)
        with self._naming_the_culprit():
            envs.step_async((indices(action, self._sizes) if self.discrete else action).numpy())
        self._acted = action

    def end_step(self) -> Rows:
        """Wait for the step that :meth:`begin_step` began."""
        envs, action, self._acted = self._running(), self._acted, None
        with self._naming_the_culprit():
            observation, reward, terminated, truncated, info = envs.step_wait(self.timeout)
        return self._rows(observation, action, reward, terminated, truncated, info)

    @property
    def stepping(self) -> bool:
        """Whether a step has begun and not ended."""
        return self._acted is not None

    def snapshot(self) -> list[dict[str, Any]]:
        """One exact snapshot an environment, pending resets included, as tensors and plain containers.

        Raise ``UserError`` for an environment that cannot. It and the others go on.
        """
        return [plain_state(answer) for answer in self._call("snapshot")]

    def restore(self, snapshots: list[dict[str, Any]]) -> None:
        """Go back to ``snapshots``. The next :meth:`step` continues from there.

        Raise ``UserError`` for an environment that cannot, or takes too long. Begin new episodes everywhere then.
        """
        if len(snapshots) != self.num_envs:
            raise UserError(f"{len(snapshots)} snapshots cannot be restored into {self.num_envs} environments.")
        try:
            self._call("restore", [array_state(snapshot) for snapshot in snapshots], waits=2)
        except _Hanging:  # it may only replay a long episode: others take the workers' places
            self.close()
            self._failure = None
            self._start()
            raise

    def frame_rate(self) -> float | None:
        """Return how many steps of an environment are a second, where it tells (``metadata["render_fps"]``)."""
        return self._call("frame_rate")[0]

    def close(self) -> None:
        """End the workers: politely, and after ten seconds not."""
        if self._envs is None:
            return
        force = threading.Timer(CLOSE_SECONDS, _kill, [self._envs])
        force.start()
        if self.stepping:
            with suppress(UserError):  # nobody wants to know what became of it
                self.end_step()
        envs, self._envs = self._envs, None
        if self._failure is not None:
            envs._state = AsyncState.DEFAULT  # the call it waits for will never be answered: do not wait or warn
        try:
            envs.close(terminate=self._failure is not None)
        except (EOFError, OSError):
            _kill(envs)  # died while closing: there is nobody left to ask
            envs.close(terminate=True)
        finally:
            force.cancel()

    def __enter__(self) -> VectorEnv:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self) -> AsyncVectorEnv | Pool:
        if self._failure is not None:
            raise self._failure
        if self._envs is None:
            raise UserError(f"The environments ({self.name}) are closed.")
        return self._envs

    def _call(self, method: str, *args: Any, waits: int = 1) -> list[Any]:
        envs, seconds = self._running(), max(waits * self.timeout, START_SECONDS)
        with self._naming_the_culprit(seconds):
            envs.call_async(method, *args)
            answers = envs.call_wait(seconds)
        for index, answer in enumerate(answers):
            if "error" in answer:
                raise UserError(f"Environment {self._worker(index)} failed: {sentence(answer['error'])}")
        return [answer["value"] for answer in answers]

    def _clean(self, action: Tensor) -> Tensor:
        expected = (self.num_envs, self.action_dim)
        if tuple(action.shape) != expected:
            raise UserError(
                f"The environments ({self.name}) take actions of shape {expected}, got {tuple(action.shape)}."
            )
        action = action.detach().to("cpu", torch.float32)
        if not torch.isfinite(action).all():
            raise UserError(f"An action for {self.name} is not finite: {action.tolist()}.")
        if self.discrete:
            return likeliest(action, self._sizes)
        return action.clamp(-1, 1)

    def _rows(
        self,
        observation: dict[str, np.ndarray],
        action: Tensor,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        info: dict[str, Any],
    ) -> Rows:
        self._raise_errors(list(info.get("error", [])))
        first = torch.from_numpy(np.array(info["is_first"], bool))
        return {
            **{key: torch.from_numpy(value.copy()) for key, value in observation.items()},
            "action": torch.where(first[:, None], 0.0, action),
            "reward": torch.from_numpy(np.array(reward, np.float32)),
            "is_first": first,
            "is_last": torch.from_numpy(np.array(terminated, bool) | np.array(truncated, bool)),
            "is_terminal": torch.from_numpy(np.array(terminated, bool)),
            "frames": torch.from_numpy(np.array(info["frames"], np.int64)),
            "success": torch.from_numpy(np.array(info["success"], np.int64)),
        }

    def _raise_errors(self, errors: list[str | None]) -> None:
        for index, error in enumerate(errors):
            if error:
                raise self._fail(f"environment {self._worker(index)} failed: {error}")

    def _worker(self, index: int) -> str:
        return f"worker {index} ({self.name}, pid {self._envs.processes[index].pid})"

    def _fail(self, message: str, kind: type[UserError] = UserError) -> UserError:
        self._failure = kind(sentence(message[0].upper() + message[1:]))
        if self._envs is not None:
            _kill(self._envs)
        return self._failure

    @contextmanager
    def _naming_the_culprit(self, seconds: float | None = None) -> Iterator[None]:
        """Turn Gymnasium's nameless errors into one sentence that says which worker, and what became of it.

        ``seconds``: how long it is waited for, ``timeout`` where nothing is said.
        """
        seconds = self.timeout if seconds is None else seconds
        try:
            yield
        except multiprocessing.TimeoutError:
            raise self._fail(self._diagnose(seconds), _Hanging) from None
        except (EOFError, OSError):  # a worker that dies breaks the pipe: BrokenPipe, ConnectionReset
            raise self._fail(self._diagnose(seconds, broken=True)) from None

    def _diagnose(self, seconds: float, broken: bool = False) -> str:
        if self._envs is None:
            return f"an environment worker ({self.name}) died while starting; see its message above"
        # A pipe breaks a moment before the exit code is known, or longer where much is to be tidied up.
        ended = wait([process.sentinel for process in self._envs.processes], CLOSE_SECONDS if broken else 0.2)
        for index, process in enumerate(self._envs.processes):
            process.join(1.0 if process.sentinel in ended else 0.0)
            if process.exitcode is not None:
                return (
                    f"environment {self._worker(index)} died with exit code {process.exitcode}; "
                    "if it was killed for memory, start a run with a lower num_envs"
                )
        if broken:
            return f"an environment worker ({self.name}) has closed its connection, and does not end; mend its step()"
        hanging = [i for i, pipe in enumerate(self._envs.parent_pipes) if pipe is not None and not pipe.poll(0)]
        who = ", ".join(self._worker(index) for index in hanging) or f"worker ({self.name})"
        return f"environment {who} did not answer within {seconds:g} s; raise step_timeout if it is only slow"


def held_out_envs(env: Mapping[str, Any], num_envs: int, seed: int, lot: int = 0) -> VectorEnv:
    """Return environments on seeds that no training plays. Each ``lot`` of one seed has its own."""
    return VectorEnv(env, num_envs, derive_seed(seed, HELD_OUT + lot), env["step_timeout"])


def _kill(envs: AsyncVectorEnv | Pool) -> None:
    for process in envs.processes:
        kill(process.pid)
