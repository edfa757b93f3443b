"""Small synthetic heads and their maps, for tests of figures and reports."""

import numpy as np
from scipy import ndimage

from adn_jax.evaluation.maps import CaseMaps
from adn_jax.metrics.alignment import Plane


def make_maps(
    shape=(6, 48, 40), angle_deg=12.0, lesion=True, found=True, seed=0, name="head"
):
    """An elliptic head with one infarct on the patient's left, as a trained net sees
    it: P near the infarct's darkening, the prediction shifted by a voxel."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.linspace(-1, 1, n).reshape(s) for n, s in axes(shape))
    inside = (x / 0.72) ** 2 + (y / 0.85) ** 2 + (z / 1.6) ** 2 < 1
    texture = ndimage.gaussian_filter(rng.normal(size=shape), (0.5, 1, 1))
    texture += texture[:, :, ::-1]
    infarct = ((x + 0.35) / 0.25) ** 2 + ((y - 0.1) / 0.3) ** 2 + (z / 0.5) ** 2 < 1
    infarct &= inside & lesion
    anatomical = 0.06 * (((x - 0.3) / 0.1) ** 2 + ((y + 0.3) / 0.4) ** 2 < 1) * inside
    darkening = 0.09 * ndimage.gaussian_filter(infarct.astype(float), (0, 1, 1))
    aligned = (0.42 + 0.05 * texture - darkening - anatomical) * inside
    mirrored = aligned[:, :, ::-1]
    asymmetry = np.maximum(mirrored - aligned, 0)
    pathological = np.minimum(darkening, asymmetry)
    prediction = np.roll(0.9 * infarct, 1, axis=1) * found
    quantities = {
        "aligned": aligned,
        "asymmetry": asymmetry,
        "pathological": pathological,
        "anatomical": asymmetry - pathological,
        "salient": aligned + asymmetry - pathological,
        "compensated": aligned + pathological,
        "aligned_prediction": prediction,
        "volume": turn(aligned, angle_deg),
        "prediction": turn(prediction, angle_deg),
    }
    return CaseMaps(
        name=name,
        spacing_mm=(12.0, 4.0, 4.0),
        window_hu=(0.0, 80.0),
        threshold=0.5,
        plane=plane(angle_deg),
        first_plane=plane(angle_deg - 3.0),
        lesion=turn(infarct.astype(float), angle_deg) > 0.5,
        aligned_lesion=infarct,
        aligned_truth=darkening > 0.0125,
        **{key: value.astype(np.float32) for key, value in quantities.items()},
    )


def axes(shape):
    """Length and broadcast shape of each axis."""
    return [
        (size, [size if i == axis else 1 for i in range(3)])
        for axis, size in enumerate(shape)
    ]


def turn(volume, angle_deg):
    """Turn a head about z, nose to the patient's left for positive angles."""
    return ndimage.rotate(volume, -angle_deg, axes=(1, 2), reshape=False, order=1)


def plane(angle_deg):
    """The mid-sagittal plane of a head turned by `turn`."""
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return Plane(np.array([c, s, 0.0]), np.zeros(3))
