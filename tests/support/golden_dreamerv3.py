"""A DreamerV3 of the golden file's sizes, with its weights: one table from its names to ours."""

from __future__ import annotations

from functools import partial

import torch
from golden import Golden, Source
from torch import Tensor

from dynamics.gru import GRU
from dynamics.latent import StochasticLatent
from planners.actor_critic import ActorCritic
from worldmodels.heads.arrival import ContinueHead, RewardHead
from worldmodels.model import WorldModel
from worldmodels.nets.categorical import CategoricalLatent, straight_through
from worldmodels.nets.decoders import Decoder
from worldmodels.nets.encoders import Encoder
from worldmodels.nets.layers import NetStyle
from worldmodels.nets.pooled import BlockDecoder, PooledEncoder
from worldmodels.objectives.reconstruction import Reconstruction

STYLE = NetStyle(norm="rms", norm_eps=1e-4, block_fan="all")
OBSERVATIONS = {"pixels": ((3, 64, 64), torch.uint8), "state": ((7,), torch.float32)}
DETER, STOCH, HIDDEN, UNITS, DEPTH, SIDE, HORIZON = 32, 16, 16, 16, 4, 4, 4
DISCOUNT = 1 - 1 / 333


class GivenLatent(CategoricalLatent):
    """Draws the classes that a test hands over, one tensor a draw."""

    def __init__(self) -> None:
        super().__init__(groups=4, classes=4)
        self.given: list[Tensor] = []

    def draw(self, raw: Tensor, noise: Tensor | None) -> Tensor:
        return straight_through(self.given.pop(0), self.params(raw).exp()).flatten(-2)


def build(contdisc: bool) -> tuple[WorldModel, ActorCritic]:
    """Return model and planner with weights of their own."""
    encoder = Encoder(OBSERVATIONS, DEPTH, UNITS, 3, images=PooledEncoder, style=STYLE)
    dynamics = StochasticLatent(
        encoder.embed_shape[-1],
        3,
        partial(GRU, deter=DETER, hidden=HIDDEN, blocks=4, style=STYLE),
        GivenLatent(),
        hidden=HIDDEN,
        style=STYLE,
    )
    decoder = partial(
        Decoder,
        depth=DEPTH,
        units=UNITS,
        layers=3,
        images=partial(BlockDecoder, units=UNITS, memory_dim=dynamics.memory_dim),
        style=STYLE,
    )
    heads = {
        "reward": RewardHead(dynamics.feat_dim, 3, UNITS, style=STYLE),
        "cont": ContinueHead(dynamics.feat_dim, 3, UNITS, discount=DISCOUNT if contdisc else 1.0, style=STYLE),
    }
    objective = Reconstruction(dynamics.feat_dim, OBSERVATIONS, decoder)
    planner = ActorCritic(
        dynamics.feat_dim,
        3,
        False,
        actor={"units": UNITS, "layers": 3},
        critic={"units": UNITS, "layers": 3},
        imag_horizon=HORIZON,
        gamma=DISCOUNT,
        start_weight="predicted",
        style=STYLE,
    )
    return WorldModel(encoder, dynamics, heads, {"reconstruction": objective}), planner


def loaded(golden: Golden, contdisc: bool = True) -> tuple[WorldModel, ActorCritic]:
    """Return model and planner with the golden weights."""
    model, planner = build(contdisc)
    golden.load(model, model_table())
    golden.load(planner, planner_table())
    return model, planner


def batch(golden: Golden) -> dict[str, Tensor]:
    """Return the golden sequences. Their actions may leave the box, to which the reference's model clips them."""
    return {
        "pixels": golden["in/image"],
        "state": golden["in/state"],
        "action": golden["in/action"].clamp(-1, 1),
        "reward": golden["in/reward"],
        "reset": golden["in/is_first"],
        **{key: golden[f"in/{key}"] for key in ("is_first", "is_last", "is_terminal")},
    }


def dense(ours: str, theirs: str, layers: int) -> dict[str, Source]:
    """Hidden layers: linear and norm."""
    table = {}
    for i in range(layers):
        table |= hidden(f"{ours}.{i}", f"{theirs}/lin{i}", f"{theirs}/norm{i}")
    return table


def hidden(ours: str, linear: str, norm: str) -> dict[str, Source]:
    """One hidden layer."""
    return plain(f"{ours}.0", linear) | {f"{ours}.1.weight": Source(f"{norm}/scale")}


def plain(ours: str, theirs: str) -> dict[str, Source]:
    """A layer whose layout is ours."""
    return {f"{ours}.weight": Source(f"{theirs}/weight"), f"{ours}.bias": Source(f"{theirs}/bias")}


def reads_features(table: dict[str, Source], layer: str) -> dict[str, Source]:
    """Their features are [deter, stoch] where this layer reads them, ours [stoch, deter]."""
    name = f"{layer}.weight"
    return table | {name: Source(table[name].name, lambda w: torch.cat([w[:, DETER:], w[:, :DETER]], dim=1))}


def flat_map(x: Tensor, dim: int) -> Tensor:
    """An axis of (h, w, c) as (c, h, w)."""
    x = x.unflatten(dim, (SIDE, SIDE, -1)).movedim(dim + 2, dim)
    return x.flatten(dim, dim + 2)


def embedding(weight: Tensor) -> Tensor:
    """Columns of [deter, vector, image map (h, w, c)] as those of our embedding: [image map (c, h, w), vector]."""
    vector, image = weight[:, DETER : DETER + UNITS], weight[:, DETER + UNITS :]
    return torch.cat([flat_map(image, 1), vector], dim=1)


def encoder_table() -> dict[str, Source]:
    """Names in the encoder."""
    table = dense("state", "enc_vec", 3)
    for i in range(4):
        table |= plain(f"pixels.{4 * i}", f"enc_img/conv{i}")
        table[f"pixels.{4 * i + 2}.weight"] = Source(f"enc_img/norm{i}/scale")
    return table


def dynamics_table() -> dict[str, Source]:
    """Names in the RSSM."""
    own = DETER // 4
    return {
        **hidden("from_stoch", "gru/in_stoch", "gru/in_stoch_norm"),
        **hidden("from_action", "gru/in_action", "gru/in_action_norm"),
        **hidden("core.mix", "gru/in_deter", "gru/in_deter_norm"),
        "core.inner.weight": Source("gru/hid/weight", lambda w: w[:, :own]),
        "core.inner.shared": Source("gru/hid/weight", lambda w: w[:, own:].mT.flatten(0, 1)),
        "core.inner.bias": Source("gru/hid/bias"),
        "core.norm.weight": Source("gru/hid_norm/scale"),
        **plain("core.gates", "gru/gates"),
        **dense("prior", "prior", 2),
        **plain("prior.2", "prior/logit"),
        "post_deter.weight": Source("post/lin0/weight", lambda w: w[:, :DETER]),
        "post_embed.weight": Source("post/lin0/weight", embedding),
        "post_embed.bias": Source("post/lin0/bias"),
        "post_out.0.weight": Source("post/norm0/scale"),
        **plain("post_out.2", "post/logit"),
    }


def decoder_table() -> dict[str, Source]:
    """Names in the decoders. The state's reads [stoch, deter] in the reference too."""
    table = {
        "pixels.from_memory.weight": Source("dec_img/from_deter/weight", lambda w: flat_map(w, 2)),
        "pixels.from_memory.bias": Source("dec_img/from_deter/bias", lambda b: flat_map(b.view(8, -1), 1).flatten()),
        **hidden("pixels.from_latent.0", "dec_img/from_stoch0", "dec_img/from_stoch0_norm"),
        "pixels.from_latent.1.weight": Source("dec_img/from_stoch1/weight", lambda w: flat_map(w, 0)),
        "pixels.from_latent.1.bias": Source("dec_img/from_stoch1/bias", lambda b: flat_map(b, 0)),
        "pixels.layers.0.weight": Source("dec_img/merged_norm/scale"),
        **plain("pixels.layers.11", "dec_img/out"),
        **dense("state.net", "dec_vec", 3),
        **plain("state.net.3", "dec_vec/out"),
    }
    for place, stage in ((2, 2), (5, 1), (8, 0)):
        table |= plain(f"pixels.layers.{place}", f"dec_img/conv{stage}")
        table[f"pixels.layers.{place + 1}.weight"] = Source(f"dec_img/norm{stage}/scale")
    return table


def model_table() -> dict[str, Source]:
    """Names in the whole model."""
    reward = reads_features(dense("net", "rew", 1), "net.0.0") | plain("net.1", "rew/logits")
    cont = reads_features(dense("net", "con", 1), "net.0.0") | plain("net.1", "con/logit")
    parts = {
        "encoder": encoder_table(),
        "dynamics": dynamics_table(),
        "objectives.reconstruction.decoder": decoder_table(),
        "heads.reward": reward,
        "heads.cont": cont,
    }
    return {f"{part}.{name}": source for part, table in parts.items() for name, source in table.items()}


def planner_table() -> dict[str, Source]:
    """Names in actor and critic."""
    actor = reads_features(dense("actor.net", "actor", 3), "actor.net.0.0")
    actor |= plain("actor.out.mean", "actor/mean") | plain("actor.out.spread", "actor/std")
    for ours, theirs in (("critic.net", "critic"), ("critic.slow", "slow")):
        actor |= reads_features(dense(ours, theirs, 3), f"{ours}.0.0") | plain(f"{ours}.3", f"{theirs}/logits")
    return actor
