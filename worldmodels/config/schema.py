"""The top level of a configuration as annotated dataclasses: everything that is not an option of a class it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from worldmodels.common.choices import Accelerator, ActingPrecision, Compile, ContextOption, Precision
from worldmodels.common.options import AtLeast, Between, Count, MoreThan

Seed = Annotated[int, Between(0, 2**32 - 1)]
Words = Sequence[str]
Node = Mapping[str, Any]
Rate = Annotated[float, AtLeast(0)]


@dataclass(frozen=True)
class Data:
    """Options of the data that is learned from."""

    dataset: Annotated[
        str | Sequence[str] | None,
        "what data= names: a recorded folder, HDF5 or npz files, minari:<id>, LeRobot's, a list of them; null: collect",
    ]
    batch_size: Annotated[Count, "windows of an update"]
    length: Annotated[Count, "rows of a window"]
    capacity: Annotated[
        int | None, AtLeast(1), "rows kept; full rings overwrite their oldest; null: as many as frames= gives"
    ]
    limit_gib: Annotated[float, MoreThan(0), "most that the replay may take on disk, in GiB"]
    cross_resets: Annotated[bool, "whether windows may run from one episode into the next"]
    newest_once: Annotated[bool, "whether all rows are trained on once, soon after they came, before any are drawn"]
    context: Annotated[ContextOption, "what precedes a window; auto: latent where memories are long, else none"]
    burn_in: Annotated[int, AtLeast(0), "rows in front of a window with context=burn_in"]


@dataclass(frozen=True)
class Evaluation:
    """How a finished run is scored."""

    episodes: Annotated[Count, "each with the deterministic and the stochastic planner"]
    explore: Annotated[bool, "true: the score is the stochastic planner's"]
    seed: Annotated[Seed, "of the evaluation's own environments and generators"]
    max_steps: Annotated[Count, "decisions after which an episode that has not ended is cut, which is told"]
    context: Annotated[Count, "frames an open-loop clip is shown"]
    imag_horizon: Annotated[Count, "decisions it then imagines"]
    futures: Annotated[Count, "imagined futures whose mean image is compared with the truth"]


@dataclass(frozen=True)
class Trainer:
    """Hardware, and how often what is saved or drawn."""

    accelerator: Annotated[Accelerator, "auto: a GPU where there is one"]
    precision: Annotated[Precision, "of what is learned"]
    tf32: Annotated[bool, "products of fp32 on a GPU: true, with ten bits of a fraction, several times as fast"]
    acting_precision: Annotated[ActingPrecision, "of plans and filtering; auto: bf16 where that is computed faster"]
    compile: Annotated[
        Compile, "cell: an imagined step while acting, whole: the losses too; auto: cell on a GPU, off elsewhere"
    ]
    threads: Annotated[int | None, AtLeast(1), "CPU threads of the learner; null: as many as there are cores"]
    checkpoint_minutes: Annotated[float, AtLeast(0), "between checkpoints"]
    video_every: Annotated[Count, "updates between open-loop clips in TensorBoard"]
    log_every: Annotated[Count, "updates between rows of metrics"]
    loggers: Annotated[Words, "where curves and pictures go beside metrics.csv: tensorboard, wandb, mlflow"]


@dataclass(frozen=True)
class Optimizer:
    """How weights are updated."""

    lr: Annotated[Rate, "learning rate"]
    warmup: Annotated[int, AtLeast(0), "updates in which the learning rates rise from 0"]
    encoder_lr: Annotated[float | None, AtLeast(0), "of parts that ask for it; null: lr"]
    param_groups: Annotated[
        Mapping[str, Mapping[str, Any]] | None, "options by part, where they differ: {model.encoder: {lr: 1e-4}}"
    ]
    ema_decay: Annotated[
        float,
        Between(0, 1, "high"),
        "share of the averaged weights, which act and are scored, that an update keeps; 0: the newest",
    ]
    build: Annotated[Node, "the optimizer's class and options"]
    clip: Annotated[Node, "how gradients are clipped"]


@dataclass(frozen=True)
class Size:
    """Widths and depths that networks share."""

    deter: Annotated[Count, "numbers of a deterministic memory"]
    hidden: Annotated[Count, "units within backbones"]
    blocks: Annotated[Count, "blocks of the GRU"]
    groups: Annotated[Count, "groups of a categorical latent"]
    classes: Annotated[Count, "classes of each"]
    depth: Annotated[Count, "channels of the first convolution"]
    units: Annotated[Count, "units of heads, state networks, actors and critics"]
    layers: Annotated[Count, "their hidden layers"]
    init_std: Annotated[float | None, MoreThan(0), "deviation of linear maps that do not begin at zero; null: by size"]


@dataclass(frozen=True)
class Memory:
    """The trainings of ``experiment=memory``."""

    backbones: Annotated[Words, "dynamics to compare"]
    posteriors: Annotated[Sequence[Literal["filter", "obs"]], "posteriors, where a backbone has the choice"]
    delays: Annotated[Sequence[Count], "steps of the hallway"]
    controls: Annotated[Sequence[Count], "delays that are also trained without the cue"]
    episodes: Annotated[Count, "to learn from; more than 64 are rounded up to a multiple of 64"]
    held_out: Annotated[Count, "episodes to be scored on"]
    updates: Annotated[Count, "of each training"]
    free_nats: Annotated[float, AtLeast(0), "KL below which neither side is pulled"]
    minutes: Annotated[float, MoreThan(0), "at most for one training"]
    rows: Annotated[Count, "of a batch, about"]
    least_batch: Annotated[Count, "fewest episodes of a batch"]
    most_batch: Annotated[Count, "most episodes of a batch"]
    workers: Annotated[Count, "trainings at a time, each a process"]
    extra: Annotated[Mapping[str, Words], "what a backbone needs beyond its configuration"]


@dataclass(frozen=True)
class Train:
    """The root of ``configs/train.yaml``."""

    procedure: Annotated[str, "function that makes a run of this configuration"]
    frames: Annotated[Count, "environment frames in all (control steps, action repeat multiplied in)"]
    prefill: Annotated[int, AtLeast(0), "frames before the first update"]
    prefill_updates: Annotated[int, AtLeast(0), "updates with the prefill's end, beside those of train_ratio"]
    train_ratio: Annotated[float, MoreThan(0), "replayed time steps per agent decision"]
    updates: Annotated[Count, "in all, where nothing is collected but a dataset is read (data=<dataset>)"]
    seed: Annotated[Seed, "of everything that is drawn at random"]
    run_dir: Annotated[str | None, "null: runs/<date>_<time>_<task>_<dynamics>_<planner>"]
    resume: Annotated[str | None, "a run folder to continue"]
    world_model: Annotated[str | None, "a run folder whose world model is frozen, for a planner to be trained on"]
    published: Annotated[str | None, "the published algorithm that an experiment is; runs tell how they depart from it"]
    protocol_of: Annotated[str | None, "the published algorithm whose protocol= is chosen"]
    data: Annotated[Data, "what is learned from"]
    evaluation: Annotated[Evaluation, "how a finished run is scored"]
    trainer: Annotated[Trainer, "hardware, and how often what is saved or drawn"]
    optimizer: Annotated[Optimizer, "how weights are updated"]
    size: Annotated[Size, "widths and depths that networks share"]
    env: Annotated[Node, "the environment"]
    encoder: Annotated[Node, "observations to embeddings"]
    dynamics: Annotated[Node, "the backbone"]
    latent: Annotated[Node, "its stochastic latent"]
    heads: Annotated[Mapping[str, Node], "what is read off features"]
    objective: Annotated[Mapping[str, Node], "what shapes the latent"]
    planner: Annotated[Node, "what acts"]
    prefill_planner: Annotated[Node | None, "what acts before the first update; null: the planner itself"]
    denoiser: Annotated[Node, "the network of planner=diffusion"]
    decoder: Annotated[Node, "features to observations, for objectives that decode"]
    nets: Annotated[Node, "what networks are made of"]
    balance: Annotated[Node, "how losses become the one number that is minimised"]
    loggers: Annotated[Mapping[str, Node], "what trainer.loggers may name"]
    readers: Annotated[Mapping[str, Node], "formats that data= may name"]
    visualization: Annotated[Mapping[str, Node], "what a run folder gets when it is scored"]
    loss_scales: Annotated[Mapping[str, float], "factors of losses, above those that each part has"]
    new_parts: Annotated[Words, "heads and objectives that world_model lacks, which learn on it; filled in"]
    memory: Annotated[Memory | None, "the trainings of experiment=memory"] = None
    choices: Annotated[Node, "the word chosen for each group"] = field(default_factory=dict)
    words: Annotated[Words, "the words that this configuration was composed from"] = ()
