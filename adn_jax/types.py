"""Axis names, array types, and the batch that travels between the stages.

Volumes are channels last, `b z y x c`. On a prepared grid x grows to the patient's
right, y to the front, z to the head (NIfTI's RAS+), so x is the flip axis. The
paper's letters stand in docstrings, words in the code:

| letter | word | meaning |
|---|---|---|
| I | volume | prepared scan, HU window mapped to [0, 1], 0 outside the brain |
| X | aligned | I with its mid-sagittal plane at the centre of x, or a box of it |
| X' | mirrored | X flipped along x |
| A | asymmetry | max(X' - X, 0): how much darker than the other side |
| P | pathological | what D takes for ischaemia: its output, 0 to 1, which may exceed |
|   |              | A; with `asymmetry.pathological` "part" that times A |
| Q | anatomical | A - P: the part that is normal anatomy |
| X_hat | salient | X + Q: only pathological asymmetry is left |
| X_tilde | compensated | X + P: only anatomical asymmetry is left |
| Y | aligned_prediction | infarct probability on X's grid |
| O | prediction | infarct probability on I's grid |
| G | lesion | infarct label, 0 to 1: the share of the voxel |
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import jax
from jaxtyping import Array, Float, Int, Integer, PRNGKeyArray

Volume = Float[Array, "b z y x c"]
"""A batch of volumes or feature maps, channels last."""

MovedVolume = Float[Array, "b z2 y2 x2 c"]
"""One beside others that lie on another grid: where X is a box, I's grid is larger."""

Shape = tuple[int, int, int]
"""Voxels along z, y and x."""

Matrix = Float[Array, "b 4 4"]
"""Homogeneous matrices on normalised (x, y, z) coordinates, from output to input."""

Index = int | Int[Array, ""]
"""Place of a row (y) in a volume."""

Key = PRNGKeyArray
Params = Any
"""A pytree of network parameters."""

Scalar = Float[Array, ""]

Step = Integer[Array, ""]
"""Updates done."""

Tree = TypeVar("Tree")

ArrayDataclass = TypeVar("ArrayDataclass")


def register_arrays(record: type[ArrayDataclass]) -> type[ArrayDataclass]:
    """Make a frozen dataclass of arrays a pytree.

    Fields with the metadata `static` are no leaves: programs are compiled for them.
    jax fills trees also with objects of its own, as when it lowers a program; these
    are put in place without the constructor, whose annotations ask for arrays.
    """
    described: Any = record  # every dataclass: no type says so
    static = [each.name for each in fields(described) if "static" in each.metadata]
    names = [each.name for each in fields(described) if each.name not in static]

    def with_keys(
        tree: ArrayDataclass,
    ) -> tuple[list[tuple[Any, Any]], tuple[Hashable, ...]]:
        attribute = jax.tree_util.GetAttrKey
        leaves = [(attribute(name), getattr(tree, name)) for name in names]
        return leaves, tuple(getattr(tree, name) for name in static)

    def build(fixed: tuple[Hashable, ...], children: Iterable[Any]) -> ArrayDataclass:
        tree = object.__new__(record)
        values = (*children, *fixed)
        for name, value in zip([*names, *static], values, strict=True):
            object.__setattr__(tree, name, value)
        return tree

    jax.tree_util.register_pytree_with_keys(record, with_keys, build)
    return record


@register_arrays
@dataclass(frozen=True)
class HeadTruth:
    """What is known of drawn heads beside their labels."""

    pathological: Float[Array, "*b z y x 1"]
    """What infarcts took from the volume, in its units (the HU window is 1); below 0
    where a sharp kernel brightens what lies around them."""
    tissue: Float[Array, "*b z y x 3"]
    """Shares of grey matter, white matter and CSF; 0 outside the brain."""
    pose: Any
    """The `geometry.rigid.Pose` that turns the head upright in the slice."""
    head_to_world: Float[Array, "*b 4 4"]
    """From the head (mm from the brain's centre, mid-sagittal plane x = 0) to the grid
    (mm from its centre), x y z, as it was drawn; augmentation leaves it."""


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

    volume: Float[Array, "*b z y x 1"]
    lesion: Float[Array, "*b z y x 1"]
    tissue: Integer[Array, "*b z y x"]
    case: Integer[Array, "*b"]
    truth: HeadTruth | None = None
    """Of drawn heads."""
