"""Grey matter, white matter and CSF of a prepared case: given maps, or an atlas."""

from collections.abc import Mapping

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage

from adn_jax.errors import UserError
from adn_jax.prepare.resample import shrink

TISSUES = ("grey", "white", "csf")
"""In the order of their labels, 1 to 3."""
START_HU = (37.0, 29.0, 10.0)
"""Usual HU of each tissue; where the estimate starts."""
START_SPREAD_HU = 6.0
EM_STEPS = 8
SMOOTHING_MM = 1.5
"""One voxel of a CT is too noisy to tell grey from white matter."""
LEAST_PRIOR = 0.02
"""The registration is never trusted fully."""
REGISTRATION_MM = (2.0, 2.0, 2.0)
"""Voxels are averaged to about this size (z y x) for the registration."""

TissueMaps = Mapping[str, nib.Nifti1Image]
"""Probability maps under the names of `TISSUES`."""


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
) -> UInt8[np.ndarray, "z y x"]:
    """Labels 1 to 3 from the scan's HU and the ICBM 152 priors registered to it.

    A mixture of three Gaussians whose weights are the priors, voxel by voxel; means and
    spreads are estimated (EM).
    """
    priors = registered_priors(hu, brain, affine)
    return np.where(brain, 1 + classify(hu, brain, affine, priors), 0).astype(np.uint8)


def classify(
    hu: Float32[np.ndarray, "z y x"],
    brain: Bool[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
    priors: Float[np.ndarray, "3 z y x"],
) -> UInt8[np.ndarray, "z y x"]:
    """The likeliest tissue (0 to 2) of each voxel; 0 outside the brain."""
    sigma = SMOOTHING_MM / np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    weight = ndimage.gaussian_filter(brain.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(np.where(brain, hu, 0), sigma)
    values = smooth[brain] / weight[brain]
    prior = np.maximum(priors[:, brain], LEAST_PRIOR)
    prior /= prior.sum(axis=0)
    mean = np.array(START_HU)[:, None]
    spread = np.full((3, 1), START_SPREAD_HU)
    for _ in range(EM_STEPS):
        share = prior * np.exp(-0.5 * ((values - mean) / spread) ** 2) / spread
        share /= share.sum(axis=0) + 1e-12
        total = share.sum(axis=1, keepdims=True) + 1e-6
        mean = (share * values).sum(axis=1, keepdims=True) / total
        spread = np.sqrt((share * (values - mean) ** 2).sum(1, keepdims=True) / total)
        spread = np.maximum(spread, 1.0)
    labels = np.zeros(brain.shape, np.uint8)
    labels[brain] = share.argmax(axis=0)
    return labels


def registered_priors(
    hu: Float32[np.ndarray, "z y x"],
    brain: Bool[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
) -> Float[np.ndarray, "3 z y x"]:
    """Atlas probabilities of the three tissues on the scan's grid, by ANTs (affine).

    The atlas is made to look like a CT by its tissues' usual HU.
    """
    ants = import_ants()
    maps, maps_affine = atlas_maps()
    contrast = np.tensordot(np.array(START_HU, np.float32), maps, axes=1)
    stripped = np.where(brain, hu, np.float32(0))
    found = ants.registration(
        fixed=to_ants(*shrink(stripped, affine, REGISTRATION_MM)),
        moving=to_ants(contrast, maps_affine),
        type_of_transform="Affine",
        random_seed=1,
    )
    grid = to_ants(stripped, affine)
    moved = [
        ants.apply_transforms(grid, to_ants(one, maps_affine), found["fwdtransforms"])
        for one in maps
    ]
    return np.stack([image.numpy().transpose(2, 1, 0) for image in moved])


def atlas_maps() -> tuple[Float32[np.ndarray, "3 z y x"], Float[np.ndarray, "4 4"]]:
    """ICBM 152 probabilities of the three tissues, from nilearn's wheel."""
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
        shrink(one, images[0].affine, REGISTRATION_MM)
        for one in (grey, white, np.clip(mask - grey - white, 0, 1))
    ]
    return np.stack([values for values, _ in smaller]), smaller[0][1]


def to_ants(volume: Float32[np.ndarray, "z y x"], affine: Float[np.ndarray, "4 4"]):
    """A volume on its grid as an ANTs image."""
    image = nib.Nifti1Image(volume.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm", "sec")
    return import_ants().from_nibabel_nifti(image)


def import_ants():
    """The ants module; `UserError` with the command that installs it."""
    try:
        import ants
    except ImportError as error:
        raise UserError(
            "tissue maps from the atlas need ANTs, which is not installed; run "
            "`pip install adn-jax[atlas]`, or set tissue to given or none."
        ) from error
    return ants
