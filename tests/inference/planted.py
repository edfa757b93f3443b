"""A round head with something planted on either side, in any orientation."""

import nibabel as nib
import numpy as np

from adn_jax.config import PrepareSettings
from adn_jax.datasets.raw import CaseInput
from adn_jax.inference.maps import CaseMaps
from adn_jax.io.image import from_nifti
from adn_jax.metrics.alignment import Plane
from adn_jax.prepare.case import prepare_scan
from adn_jax.scans.read import RawScan

INFARCT_MM = np.array([-40.0, 26.0, 14.0])
"""Middle of what is found: on the patient's left, in front, above the middle."""

CLOT_MM = np.array([28.0, -34.0, 14.0])
"""Middle of a white ball in the CT: on the right, at the back, at the same height."""

SETTINGS = PrepareSettings(shape=(24, 50, 44), spacing_mm=(6.0, 4.0, 4.0))

ORIENTATIONS = ["RAS", "LPS", "LAS", "PIR", "SAL", "AIR"]


def ball(places, centre, radius):
    return np.linalg.norm(places - centre, axis=-1) <= radius


def planted(codes, tilt=0.0):
    """A scan with the clot, stored in an orientation, and maps with the infarct."""
    shape, affine = (60, 68, 34), np.diag([3.0, 3.0, 5.0, 1.0])
    affine[:3, 3] = -np.diag(affine)[:3] * (np.array(shape) - 1) / 2
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    affine = turn @ affine
    places = nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    brain = np.linalg.norm(places / [62, 80, 65], axis=-1) <= 1
    hu = np.where(brain, 30, -1000)
    hu[ball(places, CLOT_MM, 9)] = 79
    order = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
    )
    scan, mask = (
        from_nifti(nib.Nifti1Image(one, affine).as_reoriented(order), "scan")
        for one in (hu.astype(np.int16), brain.astype(np.uint8))
    )
    case = prepare_scan(CaseInput(RawScan("planted", scan), brain=mask), SETTINGS)
    index = np.moveaxis(np.indices(case.volume.shape), 0, -1)[..., ::-1]
    found = ball(nib.affines.apply_affine(case.affine, index), INFARCT_MM, 11)
    found = found.astype(np.float32)
    maps = CaseMaps(
        name="planted",
        spacing_mm=SETTINGS.spacing_mm,
        window_hu=SETTINGS.window_hu,
        threshold=0.5,
        volume=case.volume,
        prediction=found,
        aligned=case.volume,
        asymmetry=found,
        aligned_prediction=found,
        plane=Plane(np.array([1.0, 0.0, 0.0]), np.zeros(3)),
    )
    return scan, case, maps
