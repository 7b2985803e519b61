"""Planning by denoising trajectories: Diffuser (Janner 2022), Decision Diffuser (Ajay 2023), CFGRL (Frans 2025)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from dynamics.base import Dynamics, Memory, Rollout, State
from planners.base import Considered, require
from planners.critic import Critic
from planners.hindsight import glimpses, later
from planners.labels import Label, Window
from planners.proposals import Categorical, Gaussian
from planners.replanning import Replanner, finite
from planners.returns import discounted_return, lambda_returns
from planners.schedules import Sampler, row_generators
from planners.trajectories import Request, Score, TrajectoryModel
from worldmodels.errors import near_match
from worldmodels.nets import MLP

if TYPE_CHECKING:
    from worldmodels.model import WorldModel


@dataclass(frozen=True)
class Acting:
    """How plans are sampled and chosen; nothing of it is learned, so any of it can change on a trained run."""

    sampler: str = "dpm"
    """``ddpm``, ``ddim`` or ``dpm`` (DPM-Solver++)."""
    steps: int = 10
    """Of sampling."""
    candidates: int = 4
    """Plans sampled from pure noise, of which the best is followed."""
    kept: int = 4
    """Further ones, sampled from the rest of the plan before with ``share`` of the noise put back; 0: none."""
    share: float = 0.5
    """Of the diffusion steps that the rest of a plan goes through again."""
    replan_every: int = 4
    """Actions executed of a plan."""
    gamma: float = 0.99
    """Discount a decision in what the world model imagines a plan to be worth."""
    consistency: float = 1.0
    """What a plan loses for each squared deviation between the latents it shows and those its actions lead to."""
    soonest: int = 4
    """Goals: steps of the shortest plan; candidates are spread evenly from there to the whole plan."""
    reward_guide: float = 0.0
    """Weight of the gradient of the reward head's sum over the plan."""
    value_guide: float = 0.0
    """Weight of the gradient of the critic's value of the last latent."""
    noise_std: float = 0.1
    """Exploring: of what is added to actions; Discrete: share of uniform ones."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Acting:
        """Build from a mapping; an unknown option is a ``UserError`` that names it."""
        known = [field.name for field in fields(cls)]
        for key in options:
            require(key in known, f"planner.acting has no option {key!r}.{near_match(key, known)}")
        return cls(**options)

    def scaled(self, weight: float) -> Acting:
        """With gradients so many times as strong."""
        return replace(self, reward_guide=weight * self.reward_guide, value_guide=weight * self.value_guide)

    def __post_init__(self) -> None:
        require(self.candidates >= 1, f"planner.acting.candidates={self.candidates} must be at least 1.")
        require(self.kept >= 0, f"planner.acting.kept={self.kept} must not be negative.")
        require(0 < self.share <= 1, f"planner.acting.share={self.share} must lie in (0, 1].")
        require(self.consistency >= 0, f"planner.acting.consistency={self.consistency} must not be negative.")
        require(self.noise_std > 0, f"planner.acting.noise_std={self.noise_std} must be positive.")


@dataclass(frozen=True)
class Sampled:
    """K plans for each of N rows, and what the world model says of them."""

    latents: Float[Tensor, "N K L F"]
    actions: Float[Tensor, "N K L A"]
    ends: Int64[Tensor, "N K"]
    """The step at which the goal is to be reached, where there is one."""
    values: Float[Tensor, "N K"]


class Diffusion(Replanner):
    """Samples trajectories that begin in the present latent, lets the world model judge them, follows the best.

    Memory beside :class:`~planners.replanning.Replanner`'s: ``latents`` [N, L, F] of the plan that is followed, ``end``
    the step of it at which the goal is reached, ``planned`` whether there is one.

    Args:
        feat_dim: numbers of a feature, the goal's included.
        goal_dim: how many of them, the last, are the goal's latent; 0 where environments have none.
        trajectories: builds the diffusion model.
        plan_horizon: steps of a trajectory, L.
        acting: options of :class:`Acting`.
        labels: builds what trajectories are labelled with, by name.
        goal_share: of training trajectories in which a later latent is given, as a goal is.
        critic: options of :class:`~planners.critic.Critic`, where a label or a guide needs a value.
        inverse: units and layers of the inverse dynamics that give actions where trajectories hold none.
    """

    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        discrete: bool,
        trajectories: Callable[..., TrajectoryModel],
        plan_horizon: int,
        acting: Mapping[str, Any],
        goal_dim: int = 0,
        labels: Mapping[str, Callable[..., Label]] | None = None,
        goal_share: float = 0.9,
        critic: Mapping[str, Any] | None = None,
        inverse: Mapping[str, int] | None = None,
    ) -> None:
        how = Acting.of(acting)
        require(0 <= goal_share <= 1, f"planner.goal_share={goal_share} must lie in [0, 1].")
        family = Categorical(action_dim, 0.0) if discrete else Gaussian(how.noise_std, how.noise_std)
        super().__init__(action_dim, discrete, family, plan_horizon, how.gamma, how.replan_every, how.kept > 0)
        self.acting = how
        self.goal_dim, self.goal_share = goal_dim, goal_share
        self.labels = nn.ModuleDict({name: build(goal_dim=goal_dim) for name, build in (labels or {}).items()})
        latent = feat_dim - goal_dim
        widths = {name: label.width for name, label in self.labels.items()}
        self.trajectories = trajectories(feat_dim=latent, action_dim=action_dim, labels=widths)
        self.critic = Critic(feat_dim, **critic) if critic else None
        require(
            self.trajectories.actions or inverse is not None,
            "planner.trajectories.actions=false leaves nothing to act by: give planner.inverse its units.",
        )
        require(
            inverse is None or plan_horizon > 1,
            "planner.inverse tells what leads from one latent to the next: planner.plan_horizon must be at least 2.",
        )
        self.inverse = None if inverse is None else MLP(2 * latent, out_dim=action_dim, **inverse)
        require(
            self.critic is not None or self.acting.value_guide == 0,
            "planner.acting.value_guide needs a value: give planner.critic its units.",
        )
        self.sampler = Sampler(self.trajectories.schedule, self.acting.sampler, self.acting.steps)

    @property
    def imagined(self) -> tuple[int, int]:
        """All candidates."""
        return self.acting.candidates + self.acting.kept, self.plan_horizon

    @property
    def guided(self) -> bool:
        """Whether a gradient takes part."""
        return self.acting.reward_guide != 0 or self.acting.value_guide != 0

    def check(self, dynamics: Dynamics, length: int) -> None:
        """A window must hold a whole trajectory, and where its last action led."""
        require(
            length > self.plan_horizon,
            f"planner.plan_horizon={self.plan_horizon} is longer than the windows it learns from: data.length={length} "
            f"must be at least {self.plan_horizon + 1}.",
        )

    # Learning

    def loss(self, model: WorldModel, rollout: Rollout, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``denoise`` [B, L] on L steps of each window; ``critic`` and ``inverse`` where they are learned."""
        window, ends = self._window(model, rollout, batch)
        x = self._joined(window.feat, window.action)
        given = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        given[:, 0] = True
        if window.goal is not None:
            x, given = self._with_goal(x, given, window.goal, ends)
        if self.training and window.whole.any():
            self.trajectories.follow(x[window.whole])
        labels = {name: label.of(window) for name, label in self.labels.items()}
        share = window.whole.numel() / window.whole.sum().clamp(min=1)
        counts = (window.whole * share)[:, None]
        losses = {"denoise": counts * self.trajectories.loss(x, given, labels)}
        if self.critic is not None:
            losses["critic"] = self._critic_loss(rollout, batch)
        if self.inverse is not None:
            losses["inverse"] = counts * self._inverse_loss(window)
        return losses

    def _window(
        self, model: WorldModel, rollout: Rollout, batch: dict[str, Tensor]
    ) -> tuple[Window, Int64[Tensor, " B"]]:
        """L + 1 rows of each training window as a trajectory, and at which later step of each a goal is seen."""
        rows, length, post = rollout.post.shape[1], self.plan_horizon, rollout.post.detach()
        begin = int(torch.randint(rows - length, ()))
        goal, ends = None, torch.ones(len(post), dtype=torch.int64, device=post.device)
        if self.goal_dim:
            now = torch.full((len(post), 1), begin, device=post.device)
            anywhere = any(label.reads_goal for label in self.labels.values())
            chosen = later(batch["is_first"], now, rows if anywhere else max(1, length - 1))
            ends, goal = (chosen - now)[:, 0], glimpses(model, batch, chosen)[:, 0]
        led = slice(begin + 1, begin + 1 + length)
        window = Window(
            self._parts(post[:, begin : begin + length])[0],
            batch["action"][:, led],
            batch["reward"][:, led],
            self._advantage(post, batch, begin) if self.critic is not None else None,
            batch["skill"][:, begin] if "skill" in batch else None,
            goal,
            ~batch["is_first"][:, led].any(1),
        )
        return window, ends

    def _with_goal(
        self, x: Tensor, given: Tensor, goal: Float[Tensor, "B G"], ends: Int64[Tensor, " B"]
    ) -> tuple[Tensor, Tensor]:
        """Trajectories whose latent at ``ends`` is given, as it is seen as a goal, in ``goal_share`` of the rows."""
        place = torch.arange(x.shape[1], device=x.device) == ends[:, None]
        place &= torch.rand(len(x), 1, device=x.device) < self.goal_share
        seen = torch.cat([goal, goal.new_zeros(len(goal), x.shape[-1] - self.goal_dim)], dim=-1)[:, None]
        latent = torch.arange(x.shape[-1], device=x.device) < self.goal_dim
        return torch.where(place[..., None] & latent, seen, x), given | place

    def _advantage(self, feat: Tensor, batch: dict[str, Tensor], begin: int) -> Float[Tensor, " B"]:
        """Return of what follows the first step, bootstrapped at the window's end, over the value of its state."""
        with torch.no_grad():
            value = self.critic(feat)
            return self._returns(value, batch, 1.0)[:, begin] - value[:, begin]

    def _returns(self, value: Tensor, batch: dict[str, Tensor], lam: float) -> Float[Tensor, "B T1"]:
        """Lambda-returns of all rows but the last; resets and ends cut them off."""
        going = (~batch["is_terminal"]).float()[:, 1:]
        lam = lam * (~batch["is_last"]).float()[:, 1:]
        return lambda_returns(batch["reward"][:, 1:], going, value[:, 1:], self.gamma, lam)

    def _critic_loss(self, rollout: Rollout, batch: dict[str, Tensor]) -> Float[Tensor, "B T1"]:
        """The critic on lambda-returns of what was recorded: the value of the data's own policy."""
        feat = rollout.post.detach()
        with torch.no_grad():
            value = self.critic.two_hot.decode(self.critic.slow(feat))
            target = self._returns(value, batch, 0.95)
        return self.critic.loss(feat[:, :-1], target) * ~batch["is_first"][:, 1:]

    def _inverse_loss(self, window: Window) -> Float[Tensor, "B L1"]:
        """Squared error, or cross-entropy, of the action between each two latents."""
        output = self._between(window.feat)
        if self.discrete:
            return -(window.action[:, :-1] * output.log_softmax(-1)).sum(-1)
        return (output.tanh() - window.action[:, :-1]).square().sum(-1)

    def after_step(self) -> None:
        """Move the critic's slow copy."""
        if self.critic is not None:
            self.critic.after_step()

    # Acting

    def initial(self, n: int) -> Memory:
        """No plan yet."""
        latents = torch.zeros(n, self.plan_horizon, self.trajectories.feat_dim)
        return super().initial(n) | {
            "latents": latents,
            "end": torch.zeros(n, dtype=torch.int64),
            "planned": torch.zeros(n, dtype=torch.bool),
        }

    def moved_up(self, memory: Memory) -> Memory:
        """Likewise; the last latent stays where it is, and the end comes nearer."""
        latents = torch.cat([memory["latents"][:, 1:], memory["latents"][:, -1:]], dim=1)
        return super().moved_up(memory) | {"latents": latents, "end": (memory["end"] - 1).clamp(min=1)}

    def search(
        self, model: Any, state: State, memory: Memory, explore: bool, generator: Generator | None, guide: Any
    ) -> Memory:
        """Sample, judge, and take the best; exploring, with noise on its actions."""
        sampled, noise = self.sampled(model, state, memory, generator)
        rows = torch.arange(len(sampled.values), device=sampled.values.device)
        best = sampled.values.argmax(1)
        mean = sampled.actions[rows, best]
        actions = self.family.mode(mean)
        if explore:
            spread = torch.full_like(mean, self.acting.noise_std)
            actions = self.family.draw(actions, spread, noise)
        return memory | {
            "mean": mean,
            "actions": actions,
            "latents": sampled.latents[rows, best],
            "end": sampled.ends[rows, best],
            "planned": torch.ones_like(memory["planned"]),
        }

    def consider(self, model: Any, state: State, memory: Memory, generator: Generator | None = None) -> Considered:
        """All that it samples from ``state``, and the best of it."""
        sampled, _ = self.sampled(model, state, memory, generator)
        rows = torch.arange(len(sampled.values), device=sampled.values.device)
        plan = self.family.mode(sampled.actions[rows, sampled.values.argmax(1)])
        return Considered(plan, sampled.actions, sampled.values)

    @torch.no_grad()
    def sampled(
        self,
        model: Any,
        state: State,
        memory: Memory,
        generator: Generator | None,
        watch: Callable[[Tensor], None] | None = None,
    ) -> tuple[Sampled, Float[Tensor, "N L A"]]:
        """Plans from pure noise and from the rest of the plan before, judged; and noise to explore with.

        ``watch`` is shown every step's estimate of the plans from pure noise, [N * candidates, L, D].
        """
        fresh, kept = self.acting.candidates, self.acting.kept
        n, device = len(state.feat), state.feat.device
        generators = row_generators(n * (fresh + kept + 1), generator, device)
        parts = [generators[i :: fresh + kept + 1] for i in range(fresh + kept + 1)]
        by_row = [
            [parts[i][row] for row in range(n) for i in range(a, b)] for a, b in ((0, fresh), (fresh, fresh + kept))
        ]
        ends = self._spread_ends(fresh, device).repeat(n)
        pieces = [self._sample(model, state, fresh, ends, by_row[0], None, watch)]
        piece_ends = [ends.unflatten(0, (n, fresh))]
        if kept and memory["planned"].any():
            begin = self._joined(memory["latents"], memory["mean"]).repeat_interleave(kept, dim=0)
            ends = memory["end"].repeat_interleave(kept)
            pieces.append(self._sample(model, state, kept, ends, by_row[1], begin, None))
            piece_ends.append(ends.unflatten(0, (n, kept)))
        x, ends = torch.cat(pieces, dim=1), torch.cat(piece_ends, dim=1)
        latents = x[..., : self.trajectories.feat_dim]
        actions = self._actions(x)
        values = self._judge(model, state, latents, actions, ends, generator)
        values[:, fresh:] = torch.where(memory["planned"][:, None], values[:, fresh:], -torch.inf)
        noise = torch.stack(
            [torch.randn(self.plan_horizon, self.action_dim, generator=g, device=device) for g in parts[-1]]
        )
        return Sampled(latents, actions, ends, values), noise

    def _sample(
        self,
        model: Any,
        state: State,
        count: int,
        ends: Int64[Tensor, " M"],
        generators: list[Generator],
        begin: Float[Tensor, "M L D"] | None,
        watch: Callable[[Tensor], None] | None,
    ) -> Float[Tensor, "N K L D"]:
        """``count`` trajectories a row from its latent, ending in its goal where it has one."""
        feat = state.feat.repeat_interleave(count, dim=0)
        latent, goal = self._parts(feat)
        steps = torch.arange(self.plan_horizon, device=feat.device)
        given = (steps == 0).expand(len(feat), -1)
        known = latent[:, None].expand(-1, self.plan_horizon, -1)
        if goal is not None and self.goal_share > 0:  # else it was never given while learning
            at_end = steps == ends[:, None]
            known = torch.where(at_end[..., None], goal[:, None], known)
            given = given | at_end
        x = self.trajectories.sample(
            known,
            given,
            self._requests(len(feat), goal),
            self.sampler,
            generators,
            self._score(model, goal),
            begin,
            1.0 if begin is None else self.acting.share,
            watch,
        )
        return x.unflatten(0, (-1, count))

    def _requests(self, rows: int, goal: Tensor | None) -> dict[str, Request]:
        """What plans are asked for, label by label."""
        asked = {name: label.asked(rows, goal) for name, label in self.labels.items()}
        return {name: Request(v, self.labels[name].weight) for name, v in asked.items() if v is not None}

    def _score(self, model: Any, goal: Float[Tensor, "M G"] | None) -> Score | None:
        """What gradients guide towards: imagined rewards on the way, and the value of the end."""
        if not self.guided:
            return None
        acting = self.acting

        def score(x: Float[Tensor, "M L D"]) -> Float[Tensor, " M"]:
            feat, total = self._whole(x[..., : self.trajectories.feat_dim], goal), x.new_zeros(len(x))
            if acting.reward_guide:
                gammas = acting.gamma ** torch.arange(self.plan_horizon - 1, device=x.device)
                reward = model.heads["reward"](feat, self._actions(x)[:, :-1])
                total = total + acting.reward_guide * (gammas * reward).sum(1)
            if acting.value_guide:
                total = total + acting.value_guide * self.critic(feat[:, -1])
            return total

        return score

    def _judge(
        self,
        model: Any,
        state: State,
        latents: Float[Tensor, "N K L F"],
        actions: Float[Tensor, "N K L A"],
        ends: Int64[Tensor, "N K"],
        generator: Generator | None,
    ) -> Float[Tensor, "N K"]:
        """Imagined return of the actions, less how far what they lead to is from what the plan shows."""
        count = latents.shape[1]
        forked = model.dynamics.fork(state, count)
        imagined = model.imagine(forked, self.family.mode(actions).flatten(0, 1), self.plan_horizon, generator)
        values = finite(discounted_return(imagined, self.gamma)).unflatten(0, (-1, count))
        std = self.trajectories.normaliser.std()[: self.trajectories.feat_dim]
        led = self._parts(imagined.feat)[0][:, 1:-1].unflatten(0, (-1, count))
        away = ((led - latents[:, :, 1:]) / std).square().mean(-1)
        steps = torch.arange(1, self.plan_horizon, device=ends.device)
        on_the_way = (steps <= ends[..., None]) if self.goal_dim else torch.ones_like(away, dtype=torch.bool)
        return values - self.acting.consistency * (away * on_the_way).sum(-1) / on_the_way.sum(-1).clamp(min=1)

    def _spread_ends(self, count: int, device: torch.device) -> Int64[Tensor, " K"]:
        """Steps at which candidates are to reach the goal: evenly from the soonest to the last."""
        last = self.plan_horizon - 1
        first = min(self.acting.soonest, last)
        return torch.linspace(last, first, count, device=device).round().long().clamp(min=1)

    def _actions(self, x: Float[Tensor, "... L D"]) -> Float[Tensor, "... L A"]:
        """Those of a trajectory, or what leads from each latent to the next; the last of these is repeated."""
        if self.trajectories.actions:
            actions = x[..., self.trajectories.feat_dim :]
            return actions if self.discrete else actions.clamp(-1, 1)
        between = self._between(x)
        between = between.softmax(-1) if self.discrete else between.tanh()
        return torch.cat([between, between[..., -1:, :]], dim=-2)

    def _between(self, latents: Float[Tensor, "... L F"]) -> Float[Tensor, "... L1 A"]:
        """Raw inverse dynamics."""
        return self.inverse(torch.cat([latents[..., :-1, :], latents[..., 1:, :]], dim=-1)).float()

    def _joined(self, latents: Float[Tensor, "N L F"], actions: Float[Tensor, "N L A"]) -> Float[Tensor, "N L D"]:
        return torch.cat([latents, actions], dim=-1) if self.trajectories.actions else latents

    def _parts(self, feat: Float[Tensor, "... F"]) -> tuple[Tensor, Tensor | None]:
        """The latent and the goal in a feature."""
        if not self.goal_dim:
            return feat, None
        return feat[..., : -self.goal_dim], feat[..., -self.goal_dim :]

    def _whole(self, latents: Float[Tensor, "M L F"], goal: Float[Tensor, "M G"] | None) -> Tensor:
        """Features again."""
        if goal is None:
            return latents
        return torch.cat([latents, goal[:, None].expand(-1, latents.shape[1], -1)], dim=-1)
