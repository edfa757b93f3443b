"""A tissue atlas, laid over a scan by ANTs: what is usual at each voxel."""

import os
import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32

from adn_jax.datasets.raw import TISSUES
from adn_jax.errors import UserError
from adn_jax.io.image import from_zyx, nearest_ras, onto_voxels, read_image, to_nifti
from adn_jax.metrics.overlap import dice
from adn_jax.prepare.resample import box_around, shift_origin, shrink, spacing_of

USUAL_HU = (37.0, 29.0, 8.0)
"""CT numbers of the tissues: they make a picture of the atlas that looks like a CT."""

MAP_NAMES = {
    "grey": re.compile(r"gr[ea]y|(?<![a-z])gm(?![a-z])|^c1"),
    "white": re.compile(r"white|(?<![a-z])wm(?![a-z])|^c2"),
    "csf": re.compile(r"csf|^c3"),
}
"""Words in the file names of an atlas's maps; c1 to c3 are SPM's."""

HU_LIMITS = (0.0, 60.0)

AFFINE_MM = (2.0, 2.0, 2.0)
"""Voxels are averaged to about this size (z y x) for the affine registration."""

WARP_MM = (2.0, 3.6, 3.6)
"""The same for the elastic one: the atlas is smooth."""

WARP_STEPS = (40, 40, 10)

MARGIN_MM = 12.0


@dataclass(frozen=True)
class Atlas:
    """Probabilities of grey matter, white matter and CSF, 0 to 1, nearest RAS."""

    maps: Float32[np.ndarray, "3 z y x"]
    affine: Float[np.ndarray, "4 4"]


@dataclass(frozen=True)
class Priors:
    """The atlas on the scan's prepared grid.

    `overlap` is the Dice of its brain (more than one half of any tissue) and the mask.
    """

    maps: Float32[np.ndarray, "3 z y x"]
    overlap: float


def load_atlas(folder: str) -> Atlas:
    """The atlas of a folder; empty: ICBM 152."""
    return _read_atlas(Path(folder)) if folder else icbm_atlas()


@cache
def icbm_atlas() -> Atlas:
    """ICBM 152 from nilearn's wheel; what of the brain is neither tissue is CSF.

    Read once a process; the maps cannot be written to.
    """
    from nilearn import datasets  # seconds, which every worker process would pay

    images = (
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_wm_template(resolution=1),
        datasets.load_mni152_brain_mask(resolution=1),
    )
    grey, white, mask = (
        image.get_fdata(dtype=np.float32).clip(0, 1).transpose(2, 1, 0)
        for image in images
    )
    smaller = [
        shrink(one, images[0].affine, AFFINE_MM)
        for one in (grey, white, np.clip(mask - grey - white, 0, 1))
    ]
    maps = np.stack([values for values, _ in smaller])
    maps.flags.writeable = False
    return Atlas(maps, smaller[0][1])


def _read_atlas(folder: Path) -> Atlas:
    """The three maps of a folder; `UserError` where they are not just these."""
    if not folder.is_dir():
        raise UserError(f"the atlas {folder} is no folder; give one with three maps.")
    paths = {tissue: find_map(folder, tissue) for tissue in TISSUES}
    images = {
        tissue: read_image(path, f"map of {tissue}") for tissue, path in paths.items()
    }
    try:
        on_one_grid = [onto_voxels(one, images["grey"]) for one in images.values()]
    except UserError as error:
        raise UserError(
            f"the maps of the atlas {folder} lie on different grids; bring them to one "
            f"({error})"
        ) from error
    upright = [nearest_ras(image) for image in on_one_grid]
    maps = np.stack([values for values, _ in upright])
    if not (np.isfinite(maps).all() and maps.min() >= -0.01 and maps.max() <= 1.01):
        raise UserError(
            f"the maps of the atlas {folder} go from {maps.min():g} to {maps.max():g}; "
            "probabilities from 0 to 1 are wanted."
        )
    return Atlas(np.clip(maps, 0, 1), upright[0][1])


def find_map(folder: Path, tissue: str) -> Path:
    """The one NIfTI file of a folder that is named after a tissue."""
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.name.endswith((".nii", ".nii.gz"))
        and MAP_NAMES[tissue].search(path.name.lower())
    ]
    if len(found) != 1:
        what = "no map" if not found else f"{len(found)} maps"
        raise UserError(
            f"the atlas {folder} has {what} of {tissue}; one is wanted, named "
            f"{tissue}.nii.gz or so."
        )
    return found[0]


def lay_over(
    atlas: Atlas,
    hu: Float32[np.ndarray, "z y x"],
    brain: Bool[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
) -> Priors:
    """The atlas on a scan's grid: affine (mean squares), then elastic (correlation).

    ANTs does not give the same bits twice, even with a seed and one thread.
    """
    ants = import_ants()
    contrast = np.tensordot(np.array(USUAL_HU, np.float32), atlas.maps, axes=1)
    # Local correlation sees faint tissue outside as well as brain: both are stripped.
    contrast[atlas.maps.sum(axis=0) <= 0.5] = 0
    moving = _to_ants(contrast, atlas.affine)
    stripped = np.where(brain, np.clip(hu, *HU_LIMITS), np.float32(0))
    near = around(stripped, brain, affine)
    grid = _to_ants(stripped, affine)
    with tempfile.TemporaryDirectory(prefix="adn-") as scratch:
        first = ants.registration(
            fixed=_to_ants(*shrink(*near, AFFINE_MM)),
            moving=moving,
            type_of_transform="Affine",
            aff_metric="meansquares",
            outprefix=f"{scratch}/affine",
            random_seed=1,
        )
        found = ants.registration(
            fixed=_to_ants(*shrink(*near, WARP_MM)),
            moving=moving,
            type_of_transform="SyNOnly",
            initial_transform=first["fwdtransforms"][0],
            syn_metric="CC",
            syn_sampling=2,
            reg_iterations=WARP_STEPS,
            outprefix=f"{scratch}/elastic",
            random_seed=1,
        )
        way = found["fwdtransforms"]
        moved = [
            ants.apply_transforms(grid, _to_ants(one, atlas.affine), way)
            for one in atlas.maps
        ]
    maps = np.stack([image.numpy().transpose(2, 1, 0) for image in moved])
    return Priors(maps, dice(maps.sum(axis=0) > 0.5, brain))


def around(
    volume: Float32[np.ndarray, "z y x"],
    brain: Bool[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
) -> tuple[Float32[np.ndarray, "z2 y2 x2"], Float[np.ndarray, "4 4"]]:
    """A volume cut to the brain and a margin around it, and its affine."""
    margins = [int(np.ceil(MARGIN_MM / size)) for size in spacing_of(affine)]
    box = box_around(brain, margins)
    return volume[box], shift_origin(affine, [one.start for one in box])


def _to_ants(volume: Float32[np.ndarray, "z y x"], affine: Float[np.ndarray, "4 4"]):
    """A volume on its grid as an ANTs image."""
    image = to_nifti(from_zyx(volume, affine, "volume"))
    image.header.set_xyzt_units("mm", "sec")
    return import_ants().from_nibabel_nifti(image)


def import_ants():
    """The ants module; `UserError` with the command that installs it."""
    # One thread a process: scans are prepared side by side.
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    try:
        import ants
    except ImportError as error:
        raise UserError(
            "tissue maps from the atlas need ANTs, which is not installed; run "
            "`pip install adn-jax[atlas]`, or set tissue to given or none."
        ) from error
    return ants
