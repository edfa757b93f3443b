"""An interactive page of one predicted scan that opens in any browser, offline."""

import json
import re
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float, Integer
from nilearn.plotting import view_img

from adn_jax.data.cases import PreparedCase
from adn_jax.inference.maps import CaseMaps, Map
from adn_jax.io.files import write_text
from adn_jax.io.image import Image, nearest_ras
from adn_jax.prepare.resample import Grid, resample
from adn_jax.scans.hounsfield import to_window

VOXEL_MM = 2.0
"""Cubic voxels of the page: it stays near 2 MB and loads at once."""
MARGIN_MM = 18.0
"""Room around the brain, for the skull."""


def write_viewer(path: Path, scan: Image, case: PreparedCase, maps: CaseMaps) -> None:
    """Write the page: three planes of the CT with the infarct probability over it.

    The page starts where the infarct is most probable, or else in the middle.
    """
    shape, affine = _viewer_grid(case)
    grid = Grid(shape, affine)
    hu = resample(*nearest_ras(scan), grid, outside=-1000.0)
    probability = resample(maps.prediction, case.affine, grid)

    def nifti(volume: Map) -> nib.Nifti1Image:
        return nib.Nifti1Image(volume.transpose(2, 1, 0), affine)

    start = np.array(shape) // 2
    if probability.max() >= maps.threshold:
        start = np.array(np.unravel_index(np.argmax(probability), shape))
    with warnings.catch_warnings():
        # Where nothing is predicted, the threshold is above every value.
        warnings.filterwarnings("ignore", message="The given float value must not")
        view = view_img(
            nifti(probability),
            bg_img=nifti(to_window(hu, maps.window_hu)),
            cut_coords=(affine @ [*start[::-1], 1.0])[:3].tolist(),
            threshold=maps.threshold,
            vmin=0.0,
            vmax=1.0,
            symmetric_cmap=False,
            cmap="autumn",
            opacity=0.6,
            dim=0,
            black_bg=True,
            title=case.name,
            radiological=True,
            resampling_interpolation="nearest",
        )
    page = place_mirrored(view.get_standalone(), shape, affine, start)
    write_text(path, without_remote_links(page))


def _viewer_grid(
    case: PreparedCase,
) -> tuple[tuple[int, int, int], Float[np.ndarray, "4 4"]]:
    """Shape (z y x) and affine of a cubic grid around the brain.

    Its axes are the patient's: nilearn would resample any other grid to such a one.
    """
    inside = np.argwhere(case.brain)[:, ::-1] @ case.affine[:3, :3].T
    low, high = inside.min(axis=0), inside.max(axis=0)
    size = np.ceil((high - low + 2 * MARGIN_MM) / VOXEL_MM).astype(int)
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    affine[:3, 3] = low + case.affine[:3, 3] - MARGIN_MM
    x, y, z = size.tolist()
    return (z, y, x), affine


def place_mirrored(
    page: str,
    shape: tuple[int, int, int],
    affine: Float[np.ndarray, "4 4"],
    start: Integer[np.ndarray, "3"],
) -> str:
    """Put right where nilearn's page starts and which millimetres it reads out.

    With `radiological=True` nilearn mirrors the pictures alone, so that the page would
    open at the mirror place of `start` (z y x) and read out its millimetres. The page's
    script counts slices of the mirrored picture and reads `affine @ (slice + 1)`.

    Raises:
        ValueError: the page is not one that nilearn 0.13 or 0.14 writes.
    """
    depth, height, width = shape
    z, y, x = start.tolist()
    from_page = np.array(
        [[-1.0, 0, 0, width], [0, 1, 0, -1], [0, 0, 1, -1], [0, 0, 0, 1]]
    )
    size = json.dumps({"X": width, "Y": height, "Z": depth})
    if page.count(f'"nbSlice": {size}') != 2:
        raise ValueError(f"nilearn's page does not show two pictures of {size} voxels")
    values = {
        "numSlice": {"X": width - 1 - x, "Y": y, "Z": z},
        "affine": (affine @ from_page).tolist(),
    }
    for name, value in values.items():
        old = rf'"{name}": (\{{[^}}]*\}}|\[\[.*?\]\])'
        page, count = re.subn(old, f'"{name}": {json.dumps(value)}', page)
        if count != 1:
            raise ValueError(
                f"nilearn's page has {name!r} {count} times instead of once"
            )
    return page


def without_remote_links(page: str) -> str:
    """Drop what would be fetched from the network (nilearn's icon): opening a
    patient's page must not tell anyone."""
    return re.sub(r'<link[^>]*href="https?://[^"]*"[^>]*>', "", page)
