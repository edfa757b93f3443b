"""Batches of prepared cases: each one a pure function of (seed, step)."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Protocol, runtime_checkable

import grain
import jax
import jax.numpy as jnp
import numpy as np

from adn_jax.data.cases import VOLUME_FILES, CaseArrays, read_volumes
from adn_jax.data.manifest import Manifest
from adn_jax.distributed.hosts import own_share, share_size
from adn_jax.errors import UserError, counted
from adn_jax.runtime.jobs import usable_processors
from adn_jax.types import Batch

AHEAD = 4
"""Batches at least that wait in memory ahead of the training."""

BYTES_AHEAD = 1_000_000_000
"""What they may take if there are more."""

READERS = min(max(2, usable_processors()), 16)
"""Threads at most that read batches; they mostly decompress and wait."""

BYTES_IN_MEMORY = 10_000_000_000
"""What the cases of a split may take that stay in memory."""

CASES_IN_MEMORY = 2000
"""How many they may be if most of them are memory maps: a process may map only some
65,000 files."""

ABSENT_CASE = -1
"""In place of a case's index: it could not be read."""

REMEDIES = {
    "lesion": "add lesion.nii.gz to the raw case and prepare it again",
    "tissue": "add maps to the case, or prepare it again with tissue atlas, or take "
    "another run's tissue net (--tissue-source network --tissue-run RUN)",
}
"""What to do if a case lacks a volume that training needs."""

ToDevices = Callable[[np.ndarray], jax.Array]
"""Puts one array of a batch on its devices."""


@runtime_checkable
class Cases(Protocol):
    """What a stage learns from or is validated on: cases read, or heads drawn."""

    def __len__(self) -> int:
        """Number of cases; of drawn heads those of an epoch."""
        ...

    def endless(
        self, batch: int, seed: int, start_step: int, place: ToDevices
    ) -> Iterator[Batch]:
        """Batches from a step on, each a function of the seed and the step."""
        ...

    def once(
        self, batch: int, place: ToDevices = jnp.asarray
    ) -> Iterator[tuple[Batch, int]]:
        """Every case once, in order: batches and how many of their cases count.

        The last batch is filled up with its last case, so that all have one shape.
        """
        ...

    def names_in(self, batch: int, seed: int, step: int) -> tuple[str, ...]:
        """Names of the cases that `endless` gives at a step (from 0)."""
        ...

    def check_present(self, case: np.ndarray) -> None:
        """Raise `UserError` if a process could not read its share of the cases."""
        ...


@dataclass(frozen=True)
class Split:
    """The cases of one split; as many as there is room for are read once.

    A volume on this machine stays a memory map of its file, which the system keeps in
    memory as long as there is room; labels, and volumes of a packed data set or from
    an object store, are kept decoded. Cases come in random order, so which of them are
    kept makes no difference.
    """

    manifest: Manifest
    name: str
    names: tuple[str, ...]
    """Its cases."""
    memory: dict[int, CaseArrays] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.names)

    def __getitem__(self, index: int) -> CaseArrays:
        """Arrays of the case at `index` of this split; absent labels are 0."""
        if index in self.memory:
            return self.memory[index]
        name = self.names[index]
        files = self.manifest.case_folder(name)
        volumes = read_volumes(files, ("volume", "lesion", "tissue"))
        nothing = np.zeros(volumes["volume"].shape, np.uint8)
        lesion = volumes.get("lesion", nothing)
        arrays = {
            "volume": volumes["volume"],
            "lesion": np.rint(lesion * 255).astype(np.uint8),  # 0 to 1 as 0 to 255
            "tissue": volumes.get("tissue", nothing),
            "case": np.array(self.manifest.index[name], np.int32),
        }
        held = [each for each in arrays.values() if not isinstance(each, np.memmap)]
        most = BYTES_IN_MEMORY // sum(each.nbytes for each in held)
        if len(self.memory) < min(CASES_IN_MEMORY, most):
            self.memory[index] = arrays
        return arrays

    def with_infarct(self) -> "Split":
        """The split without the cases that are known to have no infarct."""
        without = set(self.manifest.lacking.get("infarct", ()))
        names = tuple(name for name in self.names if name not in without)
        return replace(self, names=names, memory={})

    def check_infarcts(self) -> None:
        """Raise `UserError` if no case is known to have an infarct."""
        if self.names and not self.with_infarct().names:
            raise UserError(
                f"no label of the split {self.name!r} of {self.manifest.folder} marks "
                f"an infarct ({counted(len(self.names), 'case')}), so that nothing can "
                "be learnt or chosen by it; check the labels and --infarct-labels, or "
                "name cases with an infarct in splits.json, and prepare the data set "
                "again."
            )

    def check_present(self, case: np.ndarray) -> None:
        """Raise `UserError` if a process could not read its share of the cases."""
        if (case == ABSENT_CASE).any():
            raise UserError(
                f"a case of {self.manifest.folder} could not be read by a process, "
                "which names it; restore it, then run the same command again: it "
                "continues."
            )

    def order(self, batch: int, seed: int) -> grain.MapDataset:
        """Step -> which cases are in its batch, for ever: every epoch is shuffled."""
        indices = grain.MapDataset.range(len(self)).seed(seed).shuffle().repeat()
        return indices.batch(batch, drop_remainder=True)  # rounding up overflows at 1

    def names_in(self, batch: int, seed: int, step: int) -> tuple[str, ...]:
        """Names of the cases that `train_batches` gives at a step (from 0)."""
        indices = np.asarray(self.order(batch, seed)[step])
        return tuple(self.names[index] for index in indices)

    def stack(self, indices: Sequence[int] | np.ndarray) -> CaseArrays:
        """The cases at `indices` side by side."""
        cases = [self[int(index)] for index in indices]
        return {name: np.stack([case[name] for case in cases]) for name in cases[0]}

    def endless(
        self, batch: int, seed: int, start_step: int, place: ToDevices
    ) -> Iterator[Batch]:
        """As `train_batches`."""
        share = own_share(batch)
        batches = self.order(batch, seed).map(
            lambda indices: self.read_share(indices[share])
        )
        ahead = max(AHEAD, min(READERS, BYTES_AHEAD // bytes_of_share(self, batch)))
        options = grain.ReadOptions(
            num_threads=min(READERS, ahead), prefetch_buffer_size=ahead
        )
        iterator = iter(batches.to_iter_dataset(options))
        iterator.set_state({"next_index": start_step})
        return _to_batches(iterator, self, batch, place)

    def once(
        self, batch: int, place: ToDevices = jnp.asarray
    ) -> Iterator[tuple[Batch, int]]:
        """As of `Cases`."""
        starts = range(0, len(self), batch)
        counts = [min(batch, len(self) - start) for start in starts]
        cases = (np.arange(start, start + batch)[own_share(batch)] for start in starts)
        shares = (self.read_share(np.minimum(each, len(self) - 1)) for each in cases)
        yield from zip(_to_batches(shares, self, batch, place), counts, strict=False)

    def read_share(self, indices: np.ndarray) -> CaseArrays | UserError:
        """As `stack`; of several processes none raises, but returns the error."""
        try:
            return self.stack(indices)
        except UserError as error:
            if jax.process_count() == 1:
                raise
            return error


def open_split(
    manifest: Manifest, name: str, needs: Sequence[str] = (), at_least: int = 1
) -> Split:
    """The cases of the split `name`.

    Raises `UserError` if it has fewer than `at_least`, or a case lacks a volume
    named in `needs` ("lesion", "tissue").
    """
    names = manifest.splits.get(name, ())
    if len(names) < at_least:
        raise UserError(
            f"the split {name!r} of {manifest.folder} has "
            f"{counted(len(names), 'case')} and needs at least {at_least}; name more "
            "in splits.json and prepare the data set again."
        )
    for volume in needs:
        file = VOLUME_FILES[volume][0]
        lacking = set(manifest.lacking.get(volume, ()))
        if case := next((case for case in names if case in lacking), ""):
            raise UserError(
                f"{manifest.folder / case} has no {file}, which this recipe needs "
                f"for every case; {REMEDIES[volume]}, or choose a recipe "
                "that needs none."
            )
    return Split(manifest, name, tuple(names))


def train_batches(
    split: Cases,
    batch: int,
    seed: int,
    start_step: int = 0,
    place: ToDevices = jnp.asarray,
) -> Iterator[Batch]:
    """Endless shuffled batches from `start_step` on, read ahead by threads.

    Of several processes each reads its own share of a batch.

    Every epoch has its own order; a batch may span two epochs. Of drawn heads none
    comes twice.
    """
    return split.endless(batch, seed, start_step, place)


def bytes_of_share(split: Split, batch: int) -> int:
    """What a process's share of a batch takes: CT in float32, two labels in bytes."""
    return 6 * share_size(batch) * math.prod(split.manifest.settings.shape)


def _to_batches(
    shares: Iterable[CaseArrays | UserError], split: Split, batch: int, place: ToDevices
) -> Iterator[Batch]:
    """This process's shares of batches as batches.

    Where a share could not be read, it says so and gives absent cases from there on:
    all processes then learn of it in the same step.
    """
    for share in shares:
        if not isinstance(share, UserError):
            yield make_batch(share, place)
            continue
        print(f"adn: {share}", file=sys.stderr)
        count = share_size(batch)
        shape = (count, *split.manifest.settings.shape)
        labels = np.zeros(shape, np.uint8)
        absent = {
            "volume": np.zeros(shape, np.float32),
            "lesion": labels,
            "tissue": labels,
            "case": np.full(count, ABSENT_CASE, np.int32),
        }
        yield from repeat(make_batch(absent, place))


def make_batch(arrays: CaseArrays, place: ToDevices) -> Batch:
    """A `Batch` on its devices; labels travel as bytes and grow there."""
    placed = {name: place(array) for name, array in arrays.items()}
    return Batch(
        volume=placed["volume"][..., None],
        lesion=placed["lesion"][..., None].astype(jnp.float32) / 255,
        tissue=placed["tissue"],
        case=placed["case"],
    )
