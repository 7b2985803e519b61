"""TD-MPC2's latent (Hansen et al. 2024): encoder and transition, held together by consistency, without a posterior."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from typing_extensions import override

from dynamics.base import Dynamics, Rollout, State, last_steps
from dynamics.scan import since_reset
from worldmodels.common.batch import mean_over
from worldmodels.common.options import Between, Count, checked
from worldmodels.errors import OptionError
from worldmodels.nets.categorical import SimNormLatent
from worldmodels.nets.layers import DEFAULT_STYLE, MLP, NetStyle, init_linear_


class Implicit(Dynamics):
    """``z = h(o)`` and ``z' = d(z, a)`` (eq. 2) end in a norm and SimNorm. A filtered state remembers nothing.

    Observing makes latents open-loop, as planning will: they are grounded in the frame at resets and every ``unroll`` +
    1 steps, and follow from actions between. Heads are trained on these. ``post`` is the encoder's.
    """

    recurrent = False

    @checked
    def __init__(
        self,
        embed_dim: int,
        action_dim: int,
        latent: Annotated[Count, "numbers in a latent"],
        hidden: Annotated[Count, "units of hidden layers"],
        simplex: Annotated[Count, "numbers in a simplex"] = 8,
        unroll: Annotated[Count, "open-loop steps after each grounding"] = 3,
        rho: Annotated[
            float, Between(0, 1), "weight of each further step's losses, beside the one before (eq. 3)"
        ] = 0.5,
        project: Annotated[bool, "false: the embedding itself is normed, as TD-MPC2's of pixels"] = True,
        style: NetStyle = DEFAULT_STYLE,
    ) -> None:
        super().__init__()
        if latent % simplex:
            raise OptionError("simplex", simplex, f"must divide a latent of {latent} numbers")
        self.feat_dim, self.action_dim, self.unroll, self.rho = latent, action_dim, unroll, rho
        self.layouts = [{"latent": (latent,)}]
        self.simnorm = SimNormLatent(latent // simplex, simplex)
        if not project and embed_dim != latent:
            raise OptionError(
                "project", project, f"takes embeddings of {latent} numbers, as latents are, not {embed_dim}"
            )
        self.encode = nn.Sequential(
            *([init_linear_(nn.Linear(embed_dim, latent), style=style), style.make_norm(latent)] if project else [])
        )
        self.transition = nn.Sequential(
            MLP(latent + action_dim, hidden, 2, latent, style=style), style.make_norm(latent)
        )

    def initial(self, n: int) -> State:
        """Return even simplices, as of an encoder that says nothing."""
        return self._state(self._normed(self.transition[1].weight.new_zeros(n, self.feat_dim)))

    def observe(
        self,
        embed: Float[Tensor, "B T E"],
        action: Float[Tensor, "B T A"],
        reset: Bool[Tensor, "B T"],
        state: State,
    ) -> tuple[Rollout, State]:
        """Predict in ``unroll`` rounds, each from all latents at once, and keep those whose turn it is.

        That is at most ``unroll`` times the arithmetic of a loop over time, in ``unroll`` instead of T calls. Round
        ``k`` begins at step ``k``: none before it can be that far from where it was grounded.
        """
        self.check(action, state)
        post = self._normed(self.encode(embed))
        age = self._age(reset)[..., None]
        feat = post
        for k in range(1, min(self.unroll, feat.shape[1] - 1) + 1):
            predicted = torch.where(age[:, k:] == k, self._next(feat[:, k - 1 : -1], action[:, k:]), feat[:, k:])
            feat = torch.cat([feat[:, :k], predicted], dim=1)
        return Rollout(feat, post, self.rho ** age[..., 0].to(feat.dtype), {}, {}), self._state(post[:, -1])

    def obs_step(
        self,
        embed: Float[Tensor, "N E"],
        action: Float[Tensor, "N A"],
        reset: Bool[Tensor, " N"],
        state: State,
        generator: Generator | None = None,
        sample: bool | None = None,
    ) -> State:
        """Encode the frame, which decides alone. Nothing is drawn."""
        self.check(action, state)
        return self._state(self._normed(self.encode(embed)))

    def img_step(self, action: Float[Tensor, "N A"], state: State, generator: Generator | None = None) -> State:
        """Apply the transition, which draws nothing."""
        self.check(action, state)
        return self._state(self._next(state.feat, action))

    @override
    def starts(self, rollout: Rollout, last: int | None = None) -> State:
        post = rollout.post[:, -last_steps(last, rollout.post.shape[1]) :]
        return self._state(post.detach().flatten(0, 1))

    def loss(self, rollout: Rollout, reset: Bool[Tensor, "B T"]) -> dict[str, Tensor]:
        """``consistency``: squared distance of each predicted latent to the encoded one (eq. 3).

        A mean over the latent, as in the published code. The paper writes a sum, and lambda for ``rho``. The encoder
        gets no gradient as a target, only as a start. Grounded steps predict nothing and weigh nothing.
        """
        age = self._age(reset)
        weight = torch.where(age == 0, 0.0, self.rho ** (age - 1).to(rollout.feat.dtype))
        error = (rollout.feat - rollout.post.detach()).square().mean(-1)
        return {"consistency": mean_over(error * weight, age > 0)}

    def _age(self, reset: Bool[Tensor, "B T"]) -> Tensor:
        """Steps since each latent was last grounded, 0 to ``unroll``."""
        return since_reset(reset)[0] % (self.unroll + 1)

    def _next(self, latent: Float[Tensor, "... Z"], action: Float[Tensor, "... A"]) -> Float[Tensor, "... Z"]:
        return self._normed(self.transition(torch.cat([latent, action], dim=-1)))

    def _normed(self, raw: Float[Tensor, "... Z"]) -> Float[Tensor, "... Z"]:
        return self.simnorm.simplices(raw)

    def _state(self, latent: Float[Tensor, "N Z"]) -> State:
        return State(latent, {"latent": latent})
