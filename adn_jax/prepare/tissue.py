"""Grey matter, white matter and CSF of a prepared case: given maps, or an atlas."""

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage
from scipy.special import ndtr

from adn_jax.prepare.atlas import USUAL_HU, lay_over, load_atlas
from adn_jax.prepare.resample import blur_sigma, box_around, spacing_of

START_SPREAD_HU = 5.0

SPREAD_HU = (2.0, 9.0)
"""Least and largest standard deviation of a tissue."""

STEPS = 15

LAST_STEPS = 3
"""Steps at the end that leave means and spreads as they are."""

LARGEST_CSF_HU = 10.0
"""Mean of CSF at most: else dark white matter beside the ventricles joins it."""

LEAST_PRIOR = 0.02
"""The registration is never trusted fully."""

PRIOR_WEIGHT = 2.0
"""Weight of the atlas against HU, whose noise is correlated between voxels."""

MIXED = 0.5
"""Share of grey matter and of CSF that is mixed with the other in thick slices."""

ANY_HU = 1e-4
"""Density of HU that belong to no tissue (bone in the rim, streaks): there the
neighbours and the atlas decide."""

NEIGHBOURS_MM = 1.5
"""Width of the neighbourhood of a voxel (one sigma)."""

COUPLING = 2.0
"""Weight of the neighbours' tissue: one voxel of a CT is too noisy alone."""

REACH = 3.0
"""Sigmas of the neighbourhood that are looked at."""

Shares = Float32[np.ndarray, "3 z y x"]


def strongest_tissue(
    maps: Float[np.ndarray, "3 z y x"], brain: Bool[np.ndarray, "z y x"]
) -> UInt8[np.ndarray, "z y x"]:
    """Labels 1 to 3 of the strongest map; 0 outside the brain and where all are weak.

    The background's probability is what the three leave over.
    """
    background = 1 - maps.sum(axis=0, keepdims=True)
    labels = np.argmax(np.concatenate([background, maps]), axis=0)
    return np.where(brain, labels, 0).astype(np.uint8)


def atlas_tissue(
    hu: Float32[np.ndarray, "z y x"],
    brain: Bool[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
    slice_mm: float,
    lesion: Bool[np.ndarray, "z y x"] | None = None,
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
    priors = lay_over(load_atlas(atlas), hu, brain, affine)
    maps = blur_slices(priors.maps, slice_mm, spacing_of(affine)[0])
    box = box_around(brain, 1)
    usable = brain[box] if lesion is None else brain[box] & ~lesion[box]
    shares = mixture(hu[box], brain[box], usable, maps[:, *box], spacing_of(affine))
    labels = np.zeros(brain.shape, np.uint8)
    labels[box] = np.where(brain[box], 1 + shares.argmax(axis=0), 0)
    return labels, priors.overlap


def blur_slices(maps: Shares, slice_mm: float, grid_mm: float) -> Shares:
    """Maps as a scan with thicker slices than the prepared grid's would show them."""
    if slice_mm <= grid_mm:
        return maps
    sigma = blur_sigma(slice_mm / grid_mm)
    return np.stack([ndimage.gaussian_filter1d(one, sigma, axis=0) for one in maps])


def mixture(
    hu: Float32[np.ndarray, "z y x"],
    brain: Bool[np.ndarray, "z y x"],
    usable: Bool[np.ndarray, "z y x"],
    priors: Float32[np.ndarray, "3 z y x"],
    spacing_mm: tuple[float, float, float],
) -> Shares:
    """How much of each tissue every voxel of the brain is.

    A mixture of three Gaussians, and of what lies between grey matter and CSF, with the
    priors as weights and a Markov random field between neighbours, by mean-field
    expectation and maximisation (after Zhang et al., IEEE TMI 2001). Where `usable` is
    false HU count for nothing.
    """
    prior = np.maximum(priors, LEAST_PRIOR)
    prior /= prior.sum(axis=0)
    log_prior = PRIOR_WEIGHT * np.log(prior)
    shares = prior * brain
    mean = np.array(USUAL_HU, np.float32)
    spread = np.full(3, START_SPREAD_HU, np.float32)
    for step in range(STEPS):
        pure = gaussians(hu, mean, spread)
        density = pure + between(hu, mean, spread) + np.float32(ANY_HU)
        energy = log_prior + np.log(density) * usable
        energy += COUPLING * neighbours(shares, spacing_mm)
        shares = np.exp(energy - energy.max(axis=0))
        shares *= brain / shares.sum(axis=0)
        if step < STEPS - LAST_STEPS:
            sure = (shares * pure / density)[:, usable]
            mean, spread = moments(hu[usable], sure)
    return shares


def gaussians(
    hu: Float32[np.ndarray, "z y x"],
    mean: Float32[np.ndarray, "3"],
    spread: Float32[np.ndarray, "3"],
) -> Shares:
    """Density of the HU of unmixed voxels under each tissue."""
    share = np.array([1 - MIXED, 1.0, 1 - MIXED], np.float32)
    scale = share / (np.float32(np.sqrt(2 * np.pi)) * spread)
    mean, spread, scale = (one[:, None, None, None] for one in (mean, spread, scale))
    return scale * np.exp(-0.5 * ((hu - mean) / spread) ** 2)


def between(
    hu: Float32[np.ndarray, "z y x"],
    mean: Float32[np.ndarray, "3"],
    spread: Float32[np.ndarray, "3"],
) -> Shares:
    """Density of the HU of voxels that are part grey matter, part CSF.

    All parts are equally likely; the one that is more than half names the voxel.
    """
    grey, _, csf = mean
    middle = (grey + csf) / 2
    below = {one: ndtr((one - hu) / spread[0]) for one in (csf, middle, grey)}
    scale = np.float32(MIXED) / max(middle - csf, np.float32(1))
    mixed = np.zeros((3, *hu.shape), np.float32)
    mixed[0] = scale * (below[grey] - below[middle])
    mixed[2] = scale * (below[middle] - below[csf])
    return np.maximum(mixed, 0)


def moments(
    hu: Float32[np.ndarray, " n"], shares: Float32[np.ndarray, "3 n"]
) -> tuple[Float32[np.ndarray, "3"], Float32[np.ndarray, "3"]]:
    """Weighted mean and standard deviation of each tissue, in their limits."""
    total = shares.sum(axis=1) + np.float32(1e-6)
    mean = shares @ hu / total
    mean[2] = min(mean[2], LARGEST_CSF_HU)
    square = (shares * (hu - mean[:, None]) ** 2).sum(axis=1) / total
    return mean, np.clip(np.sqrt(square), *SPREAD_HU).astype(np.float32)


def neighbours(shares: Shares, spacing_mm: tuple[float, float, float]) -> Shares:
    """Mean share of each tissue around every voxel, the voxel itself left out."""
    sigma = [NEIGHBOURS_MM / size for size in spacing_mm]
    own = np.float32(np.prod([_centre_weight(one) for one in sigma]))
    around = np.stack(
        [ndimage.gaussian_filter(one, sigma, truncate=REACH) for one in shares]
    )
    return (around - own * shares) / (1 - own)


def _centre_weight(sigma: float) -> float:
    """Weight of the middle in a Gaussian filter along one axis."""
    reach = int(REACH * sigma + 0.5)
    steps = np.arange(-reach, reach + 1)
    return float(1 / np.exp(-0.5 * (steps / sigma) ** 2).sum())
