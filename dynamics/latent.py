"""A stochastic latent around any core: prior, posterior and their KL, written once for all backbones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from dynamics.base import Core, Dynamics, Memory, Rollout, State, stack_memories
from dynamics.latents import LatentSpace
from worldmodels.errors import UserError, near_match
from worldmodels.nets import MLP, Hidden, init_

POSTERIORS = ("filter", "obs")


class Latent(Dynamics):
    """Everything stochastic about a backbone; the core only ever sees ``x_t = proj(z_{t-1}, a_t)``.

    The prior is p(z_t | h_t). The posterior is q(z_t | h_t, e_t) for ``posterior="filter"`` and q(z_t | e_t) for
    ``"obs"``, which makes all z_t known at once, so that cores which can train in parallel over time do. The RSSM
    (PlaNet, Hafner et al. 2019) is ``Latent(GRU, "filter")``. A feature is [z_t, h_t].
    """

    def __init__(
        self,
        embed_dim: int,
        action_dim: int,
        core: Callable[..., Core],
        space: LatentSpace,
        posterior: str = "filter",
        hidden: int = 256,
        free_nats: float = 1.0,
    ) -> None:
        super().__init__()
        if posterior not in POSTERIORS:
            raise UserError(
                f"dynamics.posterior is 'filter' or 'obs', not {posterior!r}.{near_match(posterior, POSTERIORS)}"
            )
        self.space = space
        self.filters = posterior == "filter"
        self.free_nats = free_nats
        self.from_stoch = Hidden(space.dim, hidden)
        self.from_action = Hidden(action_dim, hidden)
        self.core = core(in_dim=2 * hidden)
        self.prior = MLP(self.core.out_dim, hidden, 2, space.raw_dim)
        self.post_embed = init_(nn.Linear(embed_dim, hidden))
        self.post_deter = init_(nn.Linear(self.core.out_dim, hidden, bias=False)) if self.filters else None
        self.post_out = nn.Sequential(nn.LayerNorm(hidden), nn.SiLU(), init_(nn.Linear(hidden, space.raw_dim)))
        self.feat_dim = space.dim + self.core.out_dim

    def initial(self, n: int) -> State:
        """No latent and no memory."""
        stoch = self.post_embed.weight.new_zeros(n, self.space.dim)
        memory = self.core.initial(n)
        return self._state(stoch, self.core.output(memory), memory)

    def observe(
        self,
        embed: Float[Tensor, "B T E"],
        action: Float[Tensor, "B T A"],
        reset: Bool[Tensor, "B T"],
        state: State,
    ) -> tuple[Rollout, State]:
        """A loop over time where the posterior filters, one ``core.scan`` where it reads the frame alone."""
        observe = self._observe_loop if self.filters else self._observe_scan
        stoch, deter, post, memory = observe(self.post_embed(embed), self.from_action(action), reset, state)
        feat = torch.cat([stoch, deter], dim=-1)
        prior = self.space.params(self.prior(deter))
        last = State(feat[:, -1], {key: value[:, -1] for key, value in memory.items()})
        return Rollout(feat, feat, {"post": post, "prior": prior}, memory), last

    def _observe_loop(
        self, embed: Tensor, action: Tensor, reset: Tensor, state: State
    ) -> tuple[Tensor, Tensor, Tensor, Memory]:
        core_memory = self._core_memory(state)
        stoch, stochs, deters, posts, memories = state.memory["stoch"], [], [], [], []
        for t in range(embed.shape[1]):
            x = self._input(stoch, action[:, t], reset[:, t])
            deter, core_memory = self.core.step(x, reset[:, t], core_memory)
            post = self._posterior(embed[:, t], deter)
            stoch = self.space.draw(post, self.sample)
            for items, item in zip((stochs, deters, posts, memories), (stoch, deter, post, core_memory), strict=True):
                items.append(item)
        stoch, deter, post = (torch.stack(items, dim=1) for items in (stochs, deters, posts))
        return stoch, deter, post, {"stoch": stoch, **stack_memories(memories)}

    def _observe_scan(
        self, embed: Tensor, action: Tensor, reset: Tensor, state: State
    ) -> tuple[Tensor, Tensor, Tensor, Memory]:
        post = self._posterior(embed, None)
        stoch = self.space.draw(post, self.sample)
        before = torch.cat([state.memory["stoch"][:, None], stoch[:, :-1]], dim=1)
        deter, memory = self.core.scan(self._input(before, action, reset), reset, self._core_memory(state))
        return stoch, deter, post, {"stoch": stoch, **memory}

    def obs_step(
        self,
        embed: Float[Tensor, "N E"],
        action: Float[Tensor, "N A"],
        reset: Bool[Tensor, " N"],
        state: State,
        generator: Generator | None = None,
    ) -> State:
        """One core step, then the posterior."""
        x = self._input(state.memory["stoch"], self.from_action(action), reset)
        deter, memory = self.core.step(x, reset, self._core_memory(state))
        post = self._posterior(self.post_embed(embed), deter)
        return self._state(self.space.draw(post, self.sample, generator), deter, memory)

    def img_step(self, action: Float[Tensor, "N A"], state: State, generator: Generator | None = None) -> State:
        """One core step, then the prior."""
        x = self._input(state.memory["stoch"], self.from_action(action), None)
        deter, memory = self.core.step(x, None, self._core_memory(state))
        prior = self.space.params(self.prior(deter))
        return self._state(self.space.draw(prior, self.sample, generator), deter, memory)

    def starts(self, rollout: Rollout, last: int | None = None) -> State:
        """Per-step memory, flattened b-major."""
        first = 0 if last is None else -last

        def rows(x: Tensor) -> Tensor:
            return x[:, first:].detach().flatten(0, 1)

        return State(rows(rollout.post), {key: rows(value) for key, value in rollout.memory.items()})

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
        """Entropies of prior and posterior in nats, to see a collapse."""
        return {f"{key}_entropy": self.space.entropy(params.detach()) for key, params in rollout.stats.items()}

    def _input(self, stoch: Tensor, action: Tensor, reset: Tensor | None) -> Tensor:
        """``x_t``, zero at resets: neither the latent nor the action before an episode may be seen in it."""
        x = torch.cat([self.from_stoch(stoch), action], dim=-1)
        return x if reset is None else torch.where(reset[..., None], 0.0, x)

    def _posterior(self, embed: Tensor, deter: Tensor | None) -> Tensor:
        """The first layer is linear in [h_t, e_t], so the part of e_t is computed for all steps at once."""
        hidden = embed if self.post_deter is None else embed + self.post_deter(deter)
        return self.space.params(self.post_out(hidden))

    def _core_memory(self, state: State) -> Memory:
        return {key: value for key, value in state.memory.items() if key != "stoch"}

    def _state(self, stoch: Tensor, deter: Tensor, memory: Memory) -> State:
        return State(torch.cat([stoch, deter], dim=-1), {"stoch": stoch, **memory})
