"""Files of a replay folder: one preallocated memory-mapped column per key, a layout, and a ledger of what is valid.

``replay.json`` says what the columns are, ``<key>.memmap`` holds ``[time, env, *shape]``, and ``ledger.memmap`` five
int64 numbers. Folders appear whole or not at all: they are built aside, under a name of their process's own, and
renamed, which only one of several processes can do.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
import socket
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from math import prod
from pathlib import Path

import psutil
import torch
from jaxtyping import Int64, Shaped
from tensordict import MemoryMappedTensor, TensorDict
from torch import Tensor
from torchrl.data import LazyMemmapStorage

from worldmodels.common.files import GIB
from worldmodels.data.ledger import Ledger
from worldmodels.errors import FULL, UserError, reason

Spec = dict[str, tuple[tuple[int, ...], torch.dtype]]
BUILDING = ".replay-"
"""What the name of a folder begins with that a process is building; its host, its number and a random end follow."""
LESS = "lower `frames` or `data.capacity` (rows kept) or `env.size` (image size)"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplayLayout:
    """Layout of a replay folder: the columns, the environments, and the ring's ``steps`` rows per environment."""

    spec: Spec
    num_envs: int
    steps: int

    @property
    def rows(self) -> int:
        """Rows of all environments."""
        return self.steps * self.num_envs

    def column_bytes(self) -> dict[str, int]:
        """Bytes of each column's file."""
        return {key: self.rows * prod(shape) * dtype.itemsize for key, (shape, dtype) in self.spec.items()}

    def describe(self) -> str:
        """One line for the start of a run: rows, environments, space, and what takes most of it."""
        sizes = self.column_bytes()
        key = max(sizes, key=sizes.__getitem__)
        total = sum(sizes.values())
        return (
            f"replay: {self.rows:,} rows of {self.num_envs} environments, {total / GIB:.2f} GiB at most "
            f"({key} {100 * sizes[key] / total:.0f} %)"
        )

    def save(self, path: Path) -> None:
        """Write the layout as JSON."""
        spec = {key: [list(shape), str(dtype).removeprefix("torch.")] for key, (shape, dtype) in self.spec.items()}
        path.write_text(json.dumps({"num_envs": self.num_envs, "steps": self.steps, "spec": spec}, indent=1))

    @classmethod
    def load(cls, path: Path) -> ReplayLayout:
        """Read a layout. Raise ``UserError`` where the file is not one."""
        try:
            content = json.loads(path.read_text())
            spec = {key: (tuple(shape), getattr(torch, dtype)) for key, (shape, dtype) in content["spec"].items()}
            for key, (_, dtype) in spec.items():
                if Path(key).name != key or not isinstance(dtype, torch.dtype):
                    raise ValueError(f"{key!r} is no column")
            return cls(spec, int(content["num_envs"]), int(content["steps"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path} is not the layout of a replay ({reason(error)}): "
                "use another folder, or one that a training or a recording left behind."
            ) from error


def plan(spec: Spec, num_envs: int, capacity: int) -> ReplayLayout:
    """The layout of a replay of at least ``capacity`` rows in all."""
    if "is_first" not in spec:
        raise ValueError("a replay needs the key 'is_first'")
    if capacity < 1:
        raise UserError(f"`data.capacity={capacity}` keeps no rows: give at least 1.")
    return ReplayLayout(
        {key: (tuple(shape), dtype) for key, (shape, dtype) in spec.items()}, num_envs, -(-capacity // num_envs)
    )


class MappedStorage(LazyMemmapStorage):
    """TorchRL's memory-mapped storage over files that exist already, read and written with one copy a row.

    ``LazyMemmapStorage`` itself makes sparse files on the first write, whose pages a full disk turns into SIGBUS, and
    cannot be opened again. Indexing ``[time, env]`` copies element by element, several times slower than
    ``index_select`` over whole rows. Every position is addressable: what is valid is the sampler's business.
    """

    def __init__(self, columns: TensorDict, directory: Path):
        super().__init__(columns.numel(), ndim=2, scratch_dir=directory, existsok=True)
        self._storage, self.initialized, self._len = columns, True, self.max_size
        self._all = {key: column.as_subclass(Tensor).flatten(0, 1) for key, column in columns.items()}
        self._flat = self._all
        self._num_envs = columns.shape[1]

    def rows(self, key: str) -> Tensor:
        """Return the file of a column, one row after another, those of all environments together."""
        return self._all[key]

    def write(self, place: slice, rows: Mapping[str, Shaped[Tensor, "R ..."]]) -> None:
        """Put rows, one after another, those of all environments together, where a slice of the columns says."""
        for key, column in self._all.items():
            column[place] = rows[key]

    def restrict(self, keys: Collection[str]) -> None:
        """Read these columns only."""
        self._flat = {key: flat for key, flat in self._flat.items() if key in keys}

    @property
    def columns(self) -> Set[str]:
        """The columns that are read."""
        return self._flat.keys()

    def get(
        self,
        index: tuple[Int64[Tensor, "..."], Int64[Tensor, "..."]],
        keys: Iterable[str] | None = None,
        pinned: bool = False,
    ) -> TensorDict:
        """Return copies of the rows at (position in the ring, environment), of some columns or of all."""
        time, env = index
        row, chosen = time * self._num_envs + env, self.columns if keys is None else keys
        found = {key: gathered(self._flat[key], row.flatten(), pinned).unflatten(0, row.shape) for key in chosen}
        return TensorDict(found, batch_size=row.shape)


def gathered(column: Shaped[Tensor, "N ..."], rows: Int64[Tensor, " R"], pinned: bool) -> Shaped[Tensor, "R ..."]:
    """Return copies of rows. In pinned memory they are written at once there, from where a GPU fetches them unasked."""
    out = torch.empty((len(rows), *column.shape[1:]), dtype=column.dtype, pin_memory=pinned)
    return torch.index_select(column, 0, rows, out=out)


def reserve(path: Path, size: int) -> None:
    """Give a file all its blocks now, so that no later write into the mapping can meet a full disk (SIGBUS)."""
    with path.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def create(directory: Path, layout: ReplayLayout, limit_gib: int | float) -> None:
    """Make a replay folder with all its disk space.

    Raise ``UserError`` above the limit, where the disk has less, and for a folder that holds something, if only since
    another process has just made a replay of it.
    """
    need = sum(layout.column_bytes().values())
    what = f"The replay needs {need / GIB:.2f} GiB for {layout.rows:,} rows"
    if need > limit_gib * GIB:
        raise UserError(f"{what}, more than `data.limit_gib={limit_gib:g}`: {LESS}, or raise `data.limit_gib`.")
    directory = directory.resolve()  # to an empty folder elsewhere a link may lead
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} is not empty: use another folder for the replay.")
    if directory == Path.cwd():  # which would be another one then
        raise UserError(f"{directory} is the present folder, which cannot be replaced: use a folder within it.")
    building = directory.parent / f"{BUILDING}{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        building.mkdir(parents=True)
        clear_unfinished(directory.parent)
        free = shutil.disk_usage(building).free
        if need > free:
            raise UserError(f"{what}, and the disk of {directory} has {free / GIB:.2f} GiB left: free some, or {LESS}.")
        layout.save(building / "replay.json")
        for key, size in layout.column_bytes().items():
            reserve(building / f"{key}.memmap", size)
        reserve(building / "ledger.memmap", Ledger.BYTES)
        building.replace(directory)
    except (OSError, UserError) as error:
        shutil.rmtree(building, ignore_errors=True)
        if isinstance(error, UserError):
            raise
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise UserError(f"Another process has just begun to write into {directory}: use another folder.") from error
        if error.errno in FULL:
            mend = f"has no place for ({error.strerror}): free some space, or {LESS}"
        else:
            mend = f"cannot be made for ({error.strerror}): choose a folder that you may write"
        raise UserError(f"{what}, which {directory} {mend}.") from error


def open_or_create(directory: Path, layout: ReplayLayout, limit_gib: int | float) -> ReplayLayout:
    """Return the layout of a replay folder, which is made if it is missing or empty, and else keeps its capacity.

    Raise ``UserError`` as :func:`create` does, and for a replay of other columns or environments.
    """
    if not (directory / "replay.json").exists():
        create(directory, layout, limit_gib)
    found = ReplayLayout.load(directory / "replay.json")
    if found.spec != layout.spec or found.num_envs != layout.num_envs:
        wrong = sorted(k for k in found.spec.keys() | layout.spec.keys() if found.spec.get(k) != layout.spec.get(k))
        raise UserError(
            f"{directory} holds a replay of {found.num_envs} environments with other columns than asked for "
            f"({layout.num_envs} environments; different: {', '.join(wrong) or 'none'}): use another folder."
        )
    if found.steps != layout.steps:
        log.warning("replay: keeps the %d rows it was made with", found.steps * found.num_envs)
    return found


def clear_unfinished(folder: Path) -> None:
    """Delete what killed processes of this machine were building. What others build, here or elsewhere, stays."""
    for left in folder.glob(f"{BUILDING}{socket.gethostname()}-*-*"):
        pid = left.name.rsplit("-", 2)[1]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def map_files(directory: Path, layout: ReplayLayout) -> tuple[TensorDict, Ledger]:
    """Map a folder's files without copying. Rows that a truncated file has lost are marked, and that is logged."""
    left = layout.steps
    for key, size in {**layout.column_bytes(), "ledger": Ledger.BYTES}.items():
        path = directory / f"{key}.memmap"
        if not path.is_file():
            raise UserError(
                f"{path} is missing, so this replay cannot be read: restore the file or use another folder."
            )
        found = path.stat().st_size
        if found > size or (key == "ledger" and found < size):
            raise UserError(f"{path} has {found:,} bytes instead of {size:,}: it does not belong to this replay.")
        if found < size:
            left = min(left, found * layout.steps // size)
            log.warning("replay: %s was cut short (%d of %d bytes)", path, found, size)

    def mapped(key: str, shape: tuple[int, ...], dtype: torch.dtype) -> MemoryMappedTensor:
        return MemoryMappedTensor.from_filename(directory / f"{key}.memmap", dtype, shape)

    ledger = Ledger(mapped("ledger", (5,), torch.int64), layout.steps)
    if left < layout.steps:
        before = sum(end - first for first, end in ledger.runs())
        ledger.lose(left)
        after = sum(end - first for first, end in ledger.runs())
        rows = layout.num_envs
        log.warning("replay: the %d whole rows that are left of %d are used", after * rows, before * rows)
        for key, size in layout.column_bytes().items():
            try:
                reserve(directory / f"{key}.memmap", size)
            except OSError as error:
                raise UserError(f"The disk has no room to mend {directory} ({error.strerror}): free some.") from error
    shape = (layout.steps, layout.num_envs)
    columns = {key: mapped(key, (*shape, *inner), dtype) for key, (inner, dtype) in layout.spec.items()}
    return TensorDict(columns, batch_size=shape), ledger
