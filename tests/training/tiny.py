"""A prepared data set of 16 x 16 x 16 heads and a recipe that trains on it in seconds.

Shared by the tests of data, runtime, training and the command line.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from adn_jax.config import (
    AlignLossSettings,
    AlignmentNetSettings,
    AlignmentSettings,
    AugmentSettings,
    JointLossSettings,
    OptimizerSettings,
    PrepareSettings,
    Recipe,
    StageSettings,
    SystemSettings,
    UNetSettings,
)
from adn_jax.data.cases import PreparedCase, read_case, write_case
from adn_jax.data.manifest import Manifest, read_manifest

SHAPE = (16, 16, 16)
PREPARE = PrepareSettings(shape=SHAPE, spacing_mm=(8.0, 10.0, 10.0))
NET = UNetSettings(widths=(2, 4), groups=2, dropout=0.2, prior=0.1)


def tiny_recipe(**changes) -> Recipe:
    """Stages align and joint, a few steps each."""
    stage = StageSettings(
        steps=4,
        batch=2,
        validate_every=2,
        optimizer=OptimizerSettings(learning_rate=1e-2),
        augment=AugmentSettings(translation=0.05),
    )
    recipe = Recipe(
        name="tiny",
        system=SystemSettings(
            prepare=PREPARE,
            alignment=AlignmentSettings(centre=True),
            alignment_net=AlignmentNetSettings(widths=(2, 4), identity_start=True),
            disentangle_net=NET,
            segment_net=NET,
        ),
        tissue_net=replace(NET, outputs=5, prior=None),
        align_loss=AlignLossSettings(pose_regression=1.0, warm_start_steps=2),
        joint_loss=JointLossSettings(warm_start_steps=2),
        align=stage,
        joint=replace(stage, steps=10),
    )
    return recipe.with_fields(**changes)


def small_recipe(**changes) -> Recipe:
    """The same with networks of one level, which compile in a third of the time."""
    net = replace(NET, widths=(2,))
    small = {
        "tissue_net": replace(net, outputs=5, prior=None),
        "alignment_net": AlignmentNetSettings(widths=(2,), identity_start=True),
        "disentangle_net": net,
        "segment_net": net,
    }
    return tiny_recipe(**small | changes)


def head(name: str, seed: int) -> PreparedCase:
    """An ellipsoid of three tissues with a dark ball, the lesion, on one side."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    radius = np.sqrt((z / 7) ** 2 + (y / 7) ** 2 + (x / 5.5) ** 2)
    brain = (radius < 1).astype(np.uint8)
    tissue = np.where(radius < 0.3, 3, np.where(radius < 0.7, 2, 1)) * brain
    side = rng.choice([-1, 1])
    distance = (z - rng.uniform(-2, 2)) ** 2 + (y - 1) ** 2 + (x - 3 * side) ** 2
    lesion = (distance < 5).astype(np.uint8) * brain
    noise = rng.uniform(0, 0.05, SHAPE)
    volume = (0.4 + 0.05 * tissue + noise - 0.3 * lesion) * brain
    spacing_z, spacing_y, spacing_x = PREPARE.spacing_mm
    affine = np.diag([spacing_x, spacing_y, spacing_z, 1.0])
    return PreparedCase(
        name=name,
        volume=volume.astype(np.float32),
        brain=brain,
        affine=affine,
        geometry={
            "shape": SHAPE[::-1],
            "affine": affine.tolist(),
            "native_shape": SHAPE[::-1],
            "native_affine": affine.tolist(),
        },
        lesion=lesion.astype(np.float32),
        tissue=tissue.astype(np.uint8),
    )


def write_heads(
    folder: Path, train: int = 5, validation: int = 3, test: int = 0
) -> Manifest:
    """A prepared data set of that many heads."""
    names = tuple(f"head{i:02}" for i in range(train + validation + test))
    for seed, name in enumerate(names):
        write_case(folder / name, head(name, seed))
    splits = {
        "train": names[:train],
        "validation": names[train : train + validation],
        "test": names[train + validation :],
    }
    manifest = Manifest(PREPARE, names, splits, folder)
    manifest.write()
    return manifest


def drop_volume(folder: Path, volume: str, *names: str) -> Manifest:
    """Make the cases `names` of a prepared data set lack a volume."""
    for name in names:
        case = replace(read_case(folder / name), **{volume: None})
        write_case(folder / name, case)
    manifest = replace(read_manifest(folder), lacking={volume: names})
    manifest.write()
    return manifest
