"""A head of ellipsoids: brain, skull and scalp in HU, small enough for every test."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from adn_jax.config import PrepareSettings
from adn_jax.io.image import Image, from_nifti

SEMI_AXES_MM = (65.0, 85.0, 70.0)

LESION_CENTRE_MM, LESION_RADIUS_MM = (10.0, -20.0, 35.0), 22.0


@dataclass(frozen=True)
class Ellipsoids:
    """HU, brain and lesion as NIfTI images on one grid."""

    ct: nib.Nifti1Image
    brain: nib.Nifti1Image
    lesion: nib.Nifti1Image

    def image(self, name: str) -> Image:
        """One of them as it is read from its file."""
        return from_nifti(getattr(self, name), name)


def ellipsoids(
    shape=(24, 72, 64), spacing=(6.0, 3.0, 3.0), codes="RAS", skull=True, brain=True
) -> Ellipsoids:
    """Build the head on a (z, y, x) grid, stored in any of the 48 orientations."""
    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = [-s * (n - 1) / 2 for n, s in zip(shape, spacing, strict=True)][
        ::-1
    ]
    z, y, x = (
        (np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)
    )
    grid = np.meshgrid(z, y, x, indexing="ij")

    def ball(extra_mm, centre=(0, 0, 0), semi_axes=SEMI_AXES_MM):
        parts = zip(grid, centre, semi_axes, strict=True)
        return sum(((g - c) / (a + extra_mm)) ** 2 for g, c, a in parts) <= 1

    inside = ball(0)
    lesion = ball(0, LESION_CENTRE_MM, (LESION_RADIUS_MM,) * 3)
    hu = np.where(ball(14), 30.0, -1000.0)
    if skull:
        hu = np.where(ball(9), 900.0, hu)
        hu = np.where(inside, 35.0 if brain else -1000.0, hu)
    hu = np.where(inside & lesion, hu - 12, hu)
    hu = hu + np.random.default_rng(0).normal(0, 2, shape)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
    )

    def image(values, dtype):
        stored = nib.Nifti1Image(values.astype(dtype).transpose(2, 1, 0), affine)
        return stored.as_reoriented(turn)

    return Ellipsoids(image(hu, np.int16), image(inside, "u1"), image(lesion, "u1"))


@pytest.fixture(scope="session")
def make_head() -> Callable[..., Ellipsoids]:
    return ellipsoids


@pytest.fixture(scope="session")
def head() -> Ellipsoids:
    return ellipsoids()


@pytest.fixture
def small_grid() -> PrepareSettings:
    return PrepareSettings(shape=(24, 48, 40), spacing_mm=(6.0, 4.0, 4.0))


@pytest.fixture
def raw(tmp_path: Path, head: Ellipsoids) -> Path:
    """A raw data set of two heads, `a` with a lesion label."""
    for name in ("a", "b"):
        folder = tmp_path / "raw" / name
        folder.mkdir(parents=True)
        head.ct.to_filename(folder / "ct.nii.gz")
    head.lesion.to_filename(tmp_path / "raw" / "a" / "lesion.nii.gz")
    return tmp_path / "raw"
