"""Heads drawn on the device in the place of a data set: a stream without an end."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import count
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.progress import track

from adn_jax.config import PrepareSettings, Recipe
from adn_jax.config.serialization import settings_to_json
from adn_jax.config.stream import StreamSettings
from adn_jax.data.batches import ToDevices
from adn_jax.data.cases import PreparedCase, read_volumes, write_case
from adn_jax.data.manifest import Manifest
from adn_jax.distributed.hosts import own_share
from adn_jax.distributed.mesh import CASE_SPEC, replicate
from adn_jax.errors import UserError
from adn_jax.io.image import from_zyx
from adn_jax.phantom.generate import (
    case_name,
    check_seed,
    claim_folder,
    split_cases,
)
from adn_jax.synthesis.atlas import HeadAtlas, load_head_atlas
from adn_jax.synthesis.draw import draw_heads
from adn_jax.types import Batch, Key

PURPOSES = {"training": 0x48656164, "validation": 0x54657374, "files": 0x46696C65}
"""Folded into the key of a seed, so that no head of one is a head of another."""


@dataclass(frozen=True)
class HeadStream:
    """Heads for a purpose."""

    settings: StreamSettings
    prepare: PrepareSettings
    purpose: str = "training"
    all_infarcts: bool = False
    """Whether every head has an infarct, not as many as the settings say."""

    def __post_init__(self) -> None:
        """Raise `UserError` for a grid that heads cannot be drawn on."""
        if min(self.prepare.shape) < 2:
            raise UserError(
                f"prepare.shape is {self.prepare.shape}; heads are drawn on grids of 2 "
                "or more voxels along each axis, so set another prepare.shape."
            )

    def __len__(self) -> int:
        """Heads of an epoch."""
        settings, held_out = self.settings, self.purpose == "validation"
        return settings.validation_heads if held_out else settings.epoch_heads

    def endless(
        self, batch: int, seed: int, start_step: int, place: ToDevices
    ) -> Iterator[Batch]:
        """Batches from a step on: head `step * batch + i` of the seed, whatever the
        devices."""
        key = self._key(seed)
        for step in count(start_step):
            yield self._draw(key, step * batch + np.arange(batch), place)

    def once(
        self, batch: int, place: ToDevices = jnp.asarray
    ) -> Iterator[tuple[Batch, int]]:
        """The held-out heads in order, the last batch filled up with the last."""
        key, total = self._key(self.settings.validation_seed), len(self)
        for start in range(0, total, batch):
            numbers = np.minimum(np.arange(start, start + batch), total - 1)
            yield self._draw(key, numbers, place), min(batch, total - start)

    def names_in(self, batch: int, seed: int, step: int) -> tuple[str, ...]:
        """Which heads `endless` gives at a step (from 0)."""
        return tuple(
            f"head {step * batch + each} of seed {seed}" for each in range(batch)
        )

    def check_present(self, case: np.ndarray) -> None:
        """Nothing: heads that are drawn are there."""

    def _key(self, seed: int) -> Key:
        return jax.random.fold_in(jax.random.key(seed), PURPOSES[self.purpose])

    def _draw(self, key: Key, numbers: np.ndarray, place: ToDevices) -> Batch:
        own = place(numbers[own_share(len(numbers))].astype(np.int32))
        sharding = own.sharding
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
        settings = self.settings
        if self.all_infarcts:
            settings = replace(settings, infarcts=(0.0, *settings.infarcts[1:]))
        draw = _compiled(self.prepare, mesh)
        return draw(key, own, _placed_atlas(self.prepare.spacing_mm, mesh), settings)


@lru_cache(maxsize=4)
def _compiled(
    prepare: PrepareSettings, mesh: Mesh | None
) -> Callable[[Key, jax.Array, HeadAtlas, StreamSettings], Batch]:
    """The compiled draw, each device its own heads."""
    draw = partial(draw_heads, prepare=prepare)
    if mesh is not None:
        everywhere = PartitionSpec()
        draw = jax.shard_map(
            draw,
            mesh=mesh,
            in_specs=(everywhere, CASE_SPEC, everywhere, everywhere),
            out_specs=CASE_SPEC,
            check_vma=False,
        )
    return jax.jit(draw)


@lru_cache(maxsize=2)
def _placed_atlas(
    spacing_mm: tuple[float, float, float], mesh: Mesh | None
) -> HeadAtlas:
    """The maps of the atlas on every device."""
    atlas = load_head_atlas(spacing_mm)
    return jax.tree.map(jnp.asarray, atlas) if mesh is None else replicate(atlas, mesh)


DRAWN_DIGEST = "drawn"
"""The digest of heads that were drawn: no case of any data set is among them."""


@dataclass(frozen=True)
class DrawnHeads:
    """What stands for a data set where heads are drawn: it has no folder."""

    settings: StreamSettings
    prepare: PrepareSettings
    score_healthy: bool
    """Whether some held-out heads are without infarct, as those to learn from are."""
    folder: None = None
    digest: str = DRAWN_DIGEST
    """In the place of a checksum over cases: the recipe says all of them."""
    learnt_sha256: None = None

    @classmethod
    def of(cls, recipe: Recipe) -> "DrawnHeads":
        """Those that a recipe learns from and is judged by."""
        return cls(recipe.stream, recipe.system.prepare, recipe.score_healthy)

    def splits(self) -> tuple[HeadStream, HeadStream]:
        """Heads to learn from, and held-out ones."""
        training = HeadStream(self.settings, self.prepare)
        held_out = replace(
            training, purpose="validation", all_infarcts=not self.score_healthy
        )
        return training, held_out


def write_drawn_heads(
    out: Path,
    cases: int,
    seed: int,
    recipe: Recipe,
    validation: int | None = None,
    test: int | None = None,
) -> dict[str, list[str]]:
    """Write drawn heads as a prepared data set and return its splits.

    Its heads are none of those that a training draws, with any seed. Finished cases
    are kept. Raises `UserError` as `phantom.generate.write_phantoms` does.
    """
    check_seed(seed, 2**31)
    splits, prepare = split_cases(cases, validation, test), recipe.system.prepare
    stream = HeadStream(recipe.stream, prepare, "files")
    made_of = {"stream": recipe.stream, "prepare": prepare}
    made_of = {name: settings_to_json(each) for name, each in made_of.items()}
    claim_folder(out, {"seed": seed, "splits": splits, **made_of})
    names = [case_name(index) for index in range(cases)]
    for index, name in enumerate(track(names, "heads", transient=True)):
        if not (out / name).exists():
            head = next(stream.endless(1, seed, index, jnp.asarray))
            case = _as_case(name, head, prepare)
            label = np.asarray(head.lesion[0, ..., 0] >= 0.5, np.uint8)
            native = from_zyx(label, case.affine, "lesion label")
            write_case(out / name, case, native)
    labels = {name: _has_infarct(out / name) for name in names}
    healthy = tuple(name for name in names if not labels[name])
    chosen = {split: tuple(members) for split, members in splits.items()}
    lacking = {"infarct": healthy} if healthy else {}
    manifest = Manifest(prepare, tuple(names), chosen, out, lacking=lacking)
    manifest.with_checksums().write()
    return splits


def _has_infarct(folder: Path) -> bool:
    """Whether the label of a case marks any voxel."""
    return bool((read_volumes(folder, ("lesion",))["lesion"] >= 0.5).any())


def _as_case(name: str, head: Batch, prepare: PrepareSettings) -> PreparedCase:
    """A batch of one drawn head as a prepared case; its scan's grid is the same."""
    assert head.truth is not None
    volume, lesion, taken, matrix = (
        np.asarray(each[0], np.float32)
        for each in (
            head.volume[..., 0],
            head.lesion[..., 0],
            head.truth.pathological[..., 0],
            head.truth.head_to_world,
        )
    )
    affine = np.diag([*prepare.spacing_mm[::-1], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(prepare.shape[::-1]) - 1) / 2)
    here = {"shape": list(prepare.shape[::-1]), "affine": affine.tolist()}
    return PreparedCase(
        name=name,
        volume=volume,
        brain=(volume > 0).astype(np.uint8),
        affine=affine,
        geometry={**{f"native_{key}": value for key, value in here.items()}, **here},
        lesion=np.rint(lesion * 255).astype(np.float32) / 255,
        tissue=np.asarray(head.tissue[0]),
        pathological=taken,
        truth={"head_to_world": matrix.tolist()},
    )
