"""A stochastic latent around any core: prior, posterior and their KL, written once for all backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor, nn
from typing_extensions import override

from dynamics.base import KL, Core, Dynamics, Memory, Rollout, State, last_steps, stack_memories
from worldmodels.common.compiling import CompiledStep
from worldmodels.common.options import AtLeast, Count, checked
from worldmodels.common.precision import wide_dtype
from worldmodels.nets.blocks import added_product
from worldmodels.nets.deferred import weights_at_once
from worldmodels.nets.distributions import LatentSpace
from worldmodels.nets.layers import DEFAULT_STYLE, MLP, DenseNormAct, Linear, NetStyle, init_linear_

Posterior = Literal["filter", "obs"]
POSTERIORS: tuple[Posterior, ...] = get_args(Posterior)
STOCH, RESET = "stoch", "reset"
"""Keys of what is not the core's in the memories of states and rollouts."""


class StochasticLatent(Dynamics):
    """Stochastic part of a backbone. The core only ever sees ``x_t = proj(z_{t-1}, a_t)``, of zeros at resets.

    The prior is p(z_t | h_t). The posterior is q(z_t | h_t, e_t) for ``posterior="filter"`` and q(z_t | e_t) for
    ``"obs"``, which makes all z_t known at once, so that cores which can train in parallel over time do. The RSSM
    (PlaNet, Hafner et al. 2019) is ``StochasticLatent(GRU, "filter")``. A feature is [z_t, h_t].
    """

    one_tensor = (("post_embed.weight", "post_deter.weight"),)

    @checked
    def __init__(
        self,
        embed_dim: int,
        action_dim: int,
        core: Annotated[Callable[..., Core], "the deterministic part"],
        latent: Annotated[LatentSpace, "what latent= chooses"],
        posterior: Annotated[Posterior, "what it reads: memory and frame, or the frame alone"] = "filter",
        hidden: Annotated[Count, "units of hidden layers"] = 256,
        free_nats: Annotated[float, AtLeast(0), "KL below which neither side is pulled"] = 1.0,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        space = latent
        self.space, self.gradient = space, space.gradient
        self.sequential = posterior == "filter"
        self.free_nats = free_nats
        self.from_stoch = DenseNormAct(space.dim, hidden, style)
        self.from_action = DenseNormAct(action_dim, hidden, style)
        self.core = core(in_dim=2 * hidden)
        self.prior = MLP(self.core.out_dim, hidden, 2, space.raw_dim, style=style)
        fan_in = embed_dim + self.core.out_dim * self.sequential  # of one layer in two parts
        self.post_embed = init_linear_(nn.Linear(embed_dim, hidden), style=style, fan_in=fan_in)
        self.post_deter = (
            init_linear_(nn.Linear(self.core.out_dim, hidden, bias=False), style=style, fan_in=fan_in)
            if self.sequential
            else None
        )
        self.post_out = nn.Sequential(
            style.make_norm(hidden), style.make_act(), init_linear_(Linear(hidden, space.raw_dim), style=style)
        )
        self.memory_dim = self.core.out_dim
        self.feat_dim, self.action_dim = space.dim + self.memory_dim, action_dim
        self.max_length, self.long_memory = self.core.max_length, self.core.long_memory
        self.layouts = [{STOCH: (space.dim,), **layout} for layout in self.core.layouts()]

    @override
    def initial(self, n: int) -> State:
        weight = self.post_embed.weight
        feat = weight.new_zeros(n, self.feat_dim, dtype=wide_dtype(weight))
        return State(feat, {STOCH: feat[:, : self.space.dim], **self.core.initial(n)})

    def observe(
        self,
        embed: Float[Tensor, "B T E"],
        action: Float[Tensor, "B T A"],
        reset: Bool[Tensor, "B T"],
        state: State,
    ) -> tuple[Rollout, State]:
        """Loop over time where the posterior filters, or scan once where it reads the frame alone."""
        self.check(action, state)
        observe = self._observe_loop if self.sequential else self._observe_scan
        before = _core_part(state.memory)
        stoch, deter, post, entries, memory = observe(
            self.post_embed(embed), self.from_action(_cleared(action, reset)), reset, state.memory[STOCH], before
        )
        feat = torch.cat([stoch, deter], dim=-1)
        post, prior = self.space.params(post), self.space.params(self.prior(deter))
        weight = torch.ones_like(feat[..., 0], dtype=torch.float32)
        kept = {STOCH: stoch, RESET: reset, **entries}
        rollout = Rollout(feat, feat, weight, {"post": post, "prior": prior}, kept, before)
        return rollout, State(feat[:, -1], {STOCH: stoch[:, -1], **memory})

    def _observe_loop(
        self, embed: Tensor, action: Tensor, reset: Tensor, stoch: Tensor, memory: Memory
    ) -> tuple[Tensor, Tensor, Tensor, Memory, Memory]:
        steps, noise = [], self._noise(embed)
        with weights_at_once(self, stoch) as stoch:
            # Unbound, not indexed: the gradient of x[:, t] is as large as x, and T of them cost T^2.
            for t, (frame, act, first) in enumerate(
                zip(embed.unbind(1), action.unbind(1), reset.unbind(1), strict=True)
            ):
                deter, memory = self.core.step(self._input(stoch, act, first), first, memory)
                post = self._posterior(frame, deter)
                stoch = self.space.draw(post, None if noise is None else noise[:, t])
                steps.append((stoch, deter, post, self.core.entry(memory)))
        stochs, deters, posts, entries = zip(*steps, strict=True)
        stoch, deter, post = (torch.stack(items, dim=1) for items in (stochs, deters, posts))
        return stoch, deter, post, stack_memories(entries), memory

    def _observe_scan(
        self, embed: Tensor, action: Tensor, reset: Tensor, stoch: Tensor, memory: Memory
    ) -> tuple[Tensor, Tensor, Tensor, Memory, Memory]:
        post = self._posterior(embed, None)
        drawn = self.space.draw(post, self._noise(embed))
        before = torch.cat([stoch[:, None], drawn[:, :-1]], dim=1)
        deter, entries, memory = self.core.scan(self._input(before, action, reset), reset, memory)
        return drawn, deter, post, entries, memory

    def obs_step(
        self,
        embed: Float[Tensor, "N E"],
        action: Float[Tensor, "N A"],
        reset: Bool[Tensor, " N"],
        state: State,
        generator: Generator | None = None,
        sample: bool | None = None,
    ) -> State:
        """Take one core step, then the posterior."""
        self.check(action, state)
        x = self._input(state.memory[STOCH], self.from_action(_cleared(action, reset)), reset)
        deter, memory = self.core.step(x, reset, _core_part(state.memory))
        post = self._posterior(self.post_embed(embed), deter if self.sequential else None)
        drawn = self.space.draw(post, self._noise(post, generator, sample))
        return self._state(drawn, deter, memory)

    def img_step(self, action: Float[Tensor, "N A"], state: State, generator: Generator | None = None) -> State:
        """Take one core step, then the prior."""
        self.check(action, state)
        noise = self._noise(state.feat, generator)
        return self._state(*self._imagined(action, state.memory[STOCH], _core_part(state.memory), noise))

    @override
    def compile_step(self) -> None:
        self._imagined = CompiledStep(self._imagined, "an imagined step")

    def _imagined(
        self, action: Tensor, stoch: Tensor, memory: Memory, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Memory]:
        """Return the next latent, output and memory: without any draw of its own, so that it can be compiled."""
        deter, memory = self.core.step(self._input(stoch, self.from_action(action), None), None, memory)
        return self.space.draw(self.prior(deter), noise), deter, memory

    @torch.no_grad()
    def starts(self, rollout: Rollout, last: int | None = None) -> State:
        """Return posteriors as starts. The core restores its memories from the entries of each step."""
        last = last_steps(last, rollout.post.shape[1])
        kept = rollout.detach()
        memory = self.core.starts(_core_part(kept.memory), kept.memory[RESET], kept.before, last)
        feat, stoch = (x[:, -last:].flatten(0, 1) for x in (kept.post, kept.memory[STOCH]))
        return State(feat, {STOCH: stoch, **memory})

    def fork(self, state: State, n: int) -> State:
        """Repeat the latents. The core decides what of its memory the copies share."""
        feat, stoch = (x.repeat_interleave(n, dim=0) for x in (state.feat, state.memory[STOCH]))
        return State(feat, {STOCH: stoch, **self.core.fork(_core_part(state.memory), n)})

    @override
    def select(self, state: State, rows: Int64[Tensor, " K"] | slice) -> State:
        memory = self.core.select(_core_part(state.memory), rows)
        return State(state.feat[rows], {STOCH: state.memory[STOCH][rows], **memory})

    def loss(self, rollout: Rollout, reset: Bool[Tensor, "B T"]) -> dict[str, Tensor]:
        """``dyn`` teaches the prior, ``rep`` regularises the posterior (DreamerV3, eq. 3), each with its free nats.

        Free nats are taken per (b, t) after summing the whole latent: below them neither side is pulled.
        """
        post, prior = rollout.stats["post"], rollout.stats["prior"]
        return {
            "dyn": self.space.kl(post.detach(), prior).clamp(min=self.free_nats),
            "rep": self.space.kl(post, prior.detach()).clamp(min=self.free_nats),
        }

    def metrics(self, rollout: Rollout) -> dict[str, Tensor]:
        """Return the entropies of prior and posterior, which show a collapse, and their KL, all in nats."""
        stats = {key: params.detach() for key, params in rollout.stats.items()}
        entropies = {f"{key}_entropy": self.space.entropy(params) for key, params in stats.items()}
        return entropies | {KL: self.space.kl(stats["post"], stats["prior"])}

    def _input(self, stoch: Tensor, action: Tensor, reset: Tensor | None) -> Tensor:
        """``x_t`` of an embedded action. The latent before an episode is not seen in it, nor is the action before."""
        return torch.cat([self.from_stoch(_cleared(stoch, reset)), action], dim=-1)

    def _posterior(self, embed: Tensor, deter: Tensor | None) -> Tensor:
        """Raw outputs. The first layer is linear in [h_t, e_t]: the part of e_t is computed for all steps at once."""
        return self.post_out(embed if deter is None else added_product(embed, deter, self.post_deter.weight))

    def _noise(self, like: Tensor, generator: Generator | None = None, sample: bool | None = None) -> Tensor | None:
        """Return the noise of latents with the leading axes of ``like``, or nothing where they take their mode."""
        return self.space.noise(like, generator) if (self.sample if sample is None else sample) else None

    def _state(self, stoch: Tensor, deter: Tensor, memory: Memory) -> State:
        return State(torch.cat([stoch, deter], dim=-1), {STOCH: stoch, **memory})


def _cleared(x: Tensor, reset: Tensor | None) -> Tensor:
    return x if reset is None else x.masked_fill(reset[..., None], 0.0)


def _core_part(memory: Memory) -> Memory:
    return {key: value for key, value in memory.items() if key not in (STOCH, RESET)}
