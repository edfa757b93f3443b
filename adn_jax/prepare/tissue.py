"""Grey matter, white matter and CSF of a prepared case: given maps, or an atlas.

An atlas says what is usual at each voxel, once ANTs has laid it over the scan; the HU
of the scan say the rest.
"""

import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy import ndimage
from scipy.special import ndtr

from adn_jax.datasets.raw import MAP_NAMES, TISSUES
from adn_jax.errors import UserError
from adn_jax.io.image import (
    Affine,
    from_zyx,
    nearest_ras,
    onto_voxels,
    read_image,
    spacing_of,
    to_nifti,
)
from adn_jax.metrics.overlap import Mask, Spacing, dice
from adn_jax.prepare.resample import blur_sigma, box_around, shift_origin, shrink

USUAL_HU = (37.0, 29.0, 8.0)
"""CT numbers of the tissues: they make a picture of the atlas that looks like a CT."""

HU_LIMITS = (0.0, 60.0)
AFFINE_MM = (2.0, 2.0, 2.0)
"""Voxels are averaged to about this size (z y x) for the affine registration."""
WARP_MM = (2.0, 3.6, 3.6)
"""The same for the elastic one: the atlas is smooth."""
WARP_STEPS = (40, 40, 10)
ATLAS_MARGIN_MM = 12.0
"""Kept around the brain for the registration."""
START_SPREAD_HU = 5.0
SPREAD_HU = (2.0, 9.0)
"""Least and largest standard deviation of a tissue."""
EM_STEPS = 15
"""Of expectation and maximisation."""
LAST_STEPS = 3
"""Steps at the end that leave means and spreads as they are."""
LARGEST_CSF_HU = 10.0
"""Mean of CSF at most: else dark white matter beside the ventricles joins it."""
LEAST_PRIOR = 0.02
"""The registration is never trusted fully."""
PRIOR_WEIGHT = 2.0
"""Weight of the atlas against HU, whose noise is correlated between voxels."""
MIXED = 0.5
"""Fraction of grey matter and of CSF that is mixed with the other in thick slices."""
ANY_HU = 1e-4
"""Density of HU that belong to no tissue (bone in the rim, streaks): there the
neighbours and the atlas decide."""
NEIGHBOURS_MM = 1.5
"""Width of the neighbourhood of a voxel (one sigma)."""
COUPLING = 2.0
"""Weight of the neighbours' tissue: one voxel of a CT is too noisy alone."""
REACH = 3.0
"""Sigmas of the neighbourhood that are looked at."""

Float32Volume = Float32[np.ndarray, "z y x"]
TissueFractions = Float32[np.ndarray, "3 z y x"]
"""Of grey matter, white matter and CSF."""
Three = Float32[np.ndarray, "3"]
"""A number for each tissue."""


@dataclass(frozen=True)
class Atlas:
    """Probabilities of grey matter, white matter and CSF, 0 to 1, nearest RAS."""

    maps: TissueFractions
    affine: Affine

    def lay_over(
        self, hu: Float32Volume, brain: Mask, affine: Affine
    ) -> tuple[TissueFractions, float]:
        """The maps on a scan's grid: affine (mean squares), then elastic (correlation).

        Also returns the Dice of its brain (more than one half of any tissue) and the
        scan's. ANTs does not give the same bits twice, even with a seed and one thread.
        """
        ants = import_ants()

        def to_ants(volume: Float32Volume, affine: Affine):
            image = to_nifti(from_zyx(volume, affine, "volume"))
            image.header.set_xyzt_units("mm", "sec")
            return ants.from_nibabel_nifti(image)

        contrast = np.tensordot(np.array(USUAL_HU, np.float32), self.maps, axes=1)
        # Local correlation sees faint tissue outside as brain: both are stripped.
        contrast[self.maps.sum(axis=0) <= 0.5] = 0
        moving = to_ants(contrast, self.affine)
        stripped = np.where(brain, np.clip(hu, *HU_LIMITS), np.float32(0))
        near = around(stripped, brain, affine)
        grid = to_ants(stripped, affine)
        with tempfile.TemporaryDirectory(prefix="adn-") as scratch:
            first = ants.registration(
                fixed=to_ants(*shrink(*near, AFFINE_MM)),
                moving=moving,
                type_of_transform="Affine",
                aff_metric="meansquares",
                outprefix=f"{scratch}/affine",
                random_seed=1,
            )
            found = ants.registration(
                fixed=to_ants(*shrink(*near, WARP_MM)),
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
                ants.apply_transforms(grid, to_ants(one, self.affine), way)
                for one in self.maps
            ]
        maps = np.stack([image.numpy().transpose(2, 1, 0) for image in moved])
        return maps, dice(maps.sum(axis=0) > 0.5, brain)


@cache
def load_atlas(folder: str) -> Atlas:
    """The atlas of a folder; empty: ICBM 152. Each is read once a process.

    Raises `UserError` unless the folder holds just the three maps, on one grid.
    """
    if not folder:
        return icbm_atlas()
    if not Path(folder).is_dir():
        raise UserError(f"the atlas {folder} is no folder; give one with three maps.")
    images = []
    for tissue in TISSUES:
        found = [
            path
            for path in sorted(Path(folder).iterdir())
            if path.name.endswith((".nii", ".nii.gz"))
            and MAP_NAMES[tissue].search(path.name.lower())
        ]
        if len(found) != 1:
            what = f"{len(found)} maps" if found else "no map"
            raise UserError(
                f"the atlas {folder} has {what} of {tissue}; one is wanted, named "
                f"{tissue}.nii.gz or so."
            )
        images.append(read_image(found[0], f"map of {tissue}"))
    try:
        on_one_grid = [onto_voxels(one, images[0]) for one in images]
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


def icbm_atlas() -> Atlas:
    """ICBM 152 from nilearn's wheel; what of the brain is neither tissue is CSF.

    The maps cannot be written to.
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


def around(
    volume: Float32Volume, brain: Mask, affine: Affine
) -> tuple[Float32[np.ndarray, "z2 y2 x2"], Affine]:
    """A volume cut to the brain and a margin around it, and its affine."""
    margins = [int(np.ceil(ATLAS_MARGIN_MM / size)) for size in spacing_of(affine)]
    box = box_around(brain, margins)
    return volume[box], shift_origin(affine, [one.start for one in box])


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


def strongest_tissue(
    maps: Float[np.ndarray, "3 z y x"], brain: Mask
) -> UInt8[np.ndarray, "z y x"]:
    """Labels 1 to 3 of the strongest map; 0 outside the brain and where all are weak.

    The background's probability is what the three leave over.
    """
    background = 1 - maps.sum(axis=0, keepdims=True)
    labels = np.argmax(np.concatenate([background, maps]), axis=0)
    return np.where(brain, labels, 0).astype(np.uint8)


def given_tissue(
    maps: Float[np.ndarray, "3 z y x"], brain: Mask
) -> tuple[UInt8[np.ndarray, "z y x"], float]:
    """Labels 1 to 3 from given maps, and the share of the brain that has one.

    Raises `UserError` if no voxel has.
    """
    labels = strongest_tissue(maps, brain)
    if not labels.any():
        raise UserError(
            "the tissue maps leave every voxel of the brain without tissue; give maps "
            "of this scan, or set tissue to atlas or none."
        )
    return labels, float(np.mean(labels[brain] > 0))


def atlas_tissue(
    hu: Float32Volume,
    brain: Mask,
    affine: Affine,
    slice_mm: float,
    lesion: Mask | None = None,
    atlas: str = "",
) -> tuple[UInt8[np.ndarray, "z y x"], float]:
    """Labels 1 to 3 from the scan's HU and an atlas, and the registration's overlap.

    Args:
        hu: the scan on the prepared grid.
        brain: its brain mask.
        affine: of the prepared grid.
        slice_mm: distance of the scan's own slices.
        lesion: infarct, whose HU tell nothing of its tissue; None: unknown.
        atlas: folder of another atlas than ICBM 152.
    """
    maps, overlap = load_atlas(atlas).lay_over(hu, brain, affine)
    maps = blur_slices(maps, slice_mm, spacing_of(affine)[0])
    box = box_around(brain, 1)
    usable = brain[box] if lesion is None else brain[box] & ~lesion[box]
    fractions = mixture(hu[box], brain[box], usable, maps[:, *box], spacing_of(affine))
    labels = np.zeros(brain.shape, np.uint8)
    labels[box] = np.where(brain[box], 1 + fractions.argmax(axis=0), 0)
    return labels, overlap


def blur_slices(
    maps: TissueFractions, slice_mm: float, grid_mm: float
) -> TissueFractions:
    """Maps as a scan with thicker slices than the prepared grid's would show them."""
    if slice_mm <= grid_mm:
        return maps
    sigma = blur_sigma(slice_mm / grid_mm)
    return np.stack([ndimage.gaussian_filter1d(one, sigma, axis=0) for one in maps])


def mixture(
    hu: Float32Volume,
    brain: Mask,
    usable: Mask,
    priors: TissueFractions,
    spacing_mm: Spacing,
) -> TissueFractions:
    """How much of each tissue every voxel of the brain is.

    A mixture of three Gaussians, and of what lies between grey matter and CSF, with the
    priors as weights and a Markov random field between neighbours, by mean-field
    expectation and maximisation (after Zhang et al., IEEE TMI 2001). Where `usable` is
    false HU count for nothing.
    """
    prior = np.maximum(priors, LEAST_PRIOR)
    prior /= prior.sum(axis=0)
    log_prior = PRIOR_WEIGHT * np.log(prior)
    fractions = prior * brain
    mean = np.array(USUAL_HU, np.float32)
    spread = np.full(3, START_SPREAD_HU, np.float32)
    for step in range(EM_STEPS):
        # What each voxel is, by its HU, the atlas and what its neighbours are.
        pure, mixed = densities(hu, mean, spread)
        density = pure + mixed + np.float32(ANY_HU)
        energy = log_prior + np.log(density) * usable
        energy += COUPLING * neighbours(fractions, spacing_mm)
        fractions = np.exp(energy - energy.max(axis=0))
        fractions *= brain / fractions.sum(axis=0)
        # What HU the tissues have; of mixed voxels only the pure part tells.
        if step < EM_STEPS - LAST_STEPS:
            sure = (fractions * pure / density)[:, usable]
            mean, spread = moments(hu[usable], sure)
    return fractions


def densities(
    hu: Float32Volume, mean: Three, spread: Three
) -> tuple[TissueFractions, TissueFractions]:
    """Density of the HU of pure voxels, and of mixed ones, under each tissue.

    Mixed voxels are part grey matter, part CSF. All parts are equally likely; the one
    that is more than half names the voxel.
    """
    grey, _, csf = mean
    middle = (grey + csf) / 2
    below = {one: ndtr((one - hu) / spread[0]) for one in (csf, middle, grey)}
    scale = np.float32(MIXED) / max(middle - csf, np.float32(1))
    mixed = np.zeros((3, *hu.shape), np.float32)
    mixed[0] = scale * (below[grey] - below[middle])
    mixed[2] = scale * (below[middle] - below[csf])
    fraction = np.array([1 - MIXED, 1.0, 1 - MIXED], np.float32)
    height = fraction / (np.float32(np.sqrt(2 * np.pi)) * spread)
    mean, spread, height = (one[:, None, None, None] for one in (mean, spread, height))
    pure = height * np.exp(-0.5 * ((hu - mean) / spread) ** 2)
    return pure, np.maximum(mixed, 0)


def moments(
    hu: Float32[np.ndarray, " n"], fractions: Float32[np.ndarray, "3 n"]
) -> tuple[Three, Three]:
    """Weighted mean and standard deviation of each tissue, in their limits."""
    total = fractions.sum(axis=1) + np.float32(1e-6)
    mean = fractions @ hu / total
    mean[2] = min(mean[2], LARGEST_CSF_HU)
    square = (fractions * (hu - mean[:, None]) ** 2).sum(axis=1) / total
    return mean, np.clip(np.sqrt(square), *SPREAD_HU).astype(np.float32)


def neighbours(fractions: TissueFractions, spacing_mm: Spacing) -> TissueFractions:
    """Mean fraction of each tissue around every voxel, the voxel itself left out."""
    sigma = [NEIGHBOURS_MM / size for size in spacing_mm]
    own = 1.0  # weight of the voxel itself in the Gaussian filter
    for one in sigma:
        reach = int(REACH * one + 0.5)
        own *= 1 / np.exp(-0.5 * (np.arange(-reach, reach + 1) / one) ** 2).sum()
    own = np.float32(own)
    around = np.stack(
        [ndimage.gaussian_filter(one, sigma, truncate=REACH) for one in fractions]
    )
    return (around - own * fractions) / (1 - own)
