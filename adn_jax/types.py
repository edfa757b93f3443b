"""Axis names, array types, and the records that travel between the stages.

Volumes are channels last, `b z y x c`. On a prepared grid x grows to the patient's
right, y to the front, z to the head (NIfTI's RAS+), so x is the flip axis. The
paper's letters stand in docstrings, words in the code:

| letter | word | meaning |
|---|---|---|
| I | volume | prepared scan, HU window mapped to [0, 1], 0 outside the brain |
| X | aligned | I with its mid-sagittal plane at the centre of x |
| X' | mirrored | X flipped along x |
| A | asymmetry | max(X' - X, 0): how much darker than the other side |
| P | pathological | the part of A that D takes for ischaemia |
| Q | anatomical | A - P: the part that is normal anatomy |
| X_hat | salient | X + Q: only pathological asymmetry is left |
| X_tilde | compensated | X + P: only anatomical asymmetry is left |
| Y | aligned_prediction | infarct probability on X's grid |
| O | prediction | infarct probability on I's grid |
| G | lesion | infarct label, 0 to 1: the share of the voxel |
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import jax
from jaxtyping import Array, Float, Int, Integer, PRNGKeyArray

Volume = Float[Array, "b z y x c"]
"""A batch of volumes or feature maps, channels last."""

View = Float[Array, "b 6"]
"""Rigid pose of each head: rotations about x, y, z (radians), shifts along x, y, z
(in half-extents of the volume, the unit of normalised coordinates)."""

Matrix = Float[Array, "b 4 4"]
"""Homogeneous matrices on normalised (x, y, z) coordinates, from output to input."""

Index = int | Int[Array, ""]
"""Place of a row (y) in a volume."""

Key = PRNGKeyArray
Params = Any
"""A pytree of network parameters."""

Record = TypeVar("Record")


def register_arrays(record: type[Record]) -> type[Record]:
    """Make a frozen dataclass of arrays a pytree.

    jax fills trees also with objects of its own, as when it lowers a program; these
    are put in place without the constructor, whose annotations ask for arrays.
    """
    described: Any = record  # every dataclass: no type says so
    names = [each.name for each in fields(described)]

    def with_keys(tree: Record) -> tuple[list[tuple[Any, Any]], None]:
        attribute = jax.tree_util.GetAttrKey
        return [(attribute(name), getattr(tree, name)) for name in names], None

    def build(_: None, children: Iterable[Any]) -> Record:
        tree = object.__new__(record)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(tree, name, child)
        return tree

    jax.tree_util.register_pytree_with_keys(record, with_keys, build)
    return record


@register_arrays
@dataclass(frozen=True)
class Batch:
    """Prepared cases side by side, as the train steps take them.

    `lesion` is the share of each voxel that is infarct, 0 to 1, `tissue` is 0
    background, 1 grey matter, 2 white matter, 3 CSF (all 0 where a data set has no
    maps), `case` is each case's index in its data set: randomness is folded in by it,
    so that it does not depend on batch or devices. It is -1 in the share of a process
    that could not read it; such a batch teaches nothing.
    """

    volume: Float[Array, "b z y x 1"]
    lesion: Float[Array, "b z y x 1"]
    tissue: Integer[Array, "b z y x"]
    case: Integer[Array, " b"]


@register_arrays
@dataclass(frozen=True)
class AdnParams:
    """Parameters of T (None: alignment by search), D (None: a system without it), F."""

    view: Params
    disentangle: Params
    segment: Params


@register_arrays
@dataclass(frozen=True)
class AdnOutputs:
    """Everything the chain computes for a batch of volumes I (letters: see above).

    What D makes is None in a system without it. `auxiliary_predictions` are Y as the
    decoder levels below the last give it (deep supervision), the finest first, each
    voxel repeated to X's grid; there are none in inference.
    """

    view: View
    matrix: Matrix
    inverse: Matrix
    aligned: Volume
    mirrored: Volume
    asymmetry: Volume
    pathological: Volume | None
    anatomical: Volume | None
    salient: Volume | None
    compensated: Volume | None
    aligned_prediction: Volume
    prediction: Volume
    auxiliary_predictions: tuple[Volume, ...] = ()


@register_arrays
@dataclass(frozen=True)
class Targets:
    """What the loss terms compare with: G on I's grid and on X's, tissue on X's.

    `tissue` holds grey matter, white matter and CSF as 0 or 1 in its three channels;
    the terms that want normal tissue only leave the lesion's voxels out themselves.
    """

    lesion: Float[Array, "b z y x 1"]
    aligned_lesion: Float[Array, "b z y x 1"]
    tissue: Float[Array, "b z y x 3"]
