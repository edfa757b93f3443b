"""Small synthetic heads, their maps, a prepared data set, and an untrained run."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from adn_jax.config import (
    AlignmentNetSettings,
    AlignmentSettings,
    JointLossSettings,
    PrepareSettings,
    Recipe,
    SystemSettings,
    UNetSettings,
)
from adn_jax.data.cases import PreparedCase, write_case
from adn_jax.data.manifest import Manifest
from adn_jax.inference.maps import CaseMaps
from adn_jax.inference.shown import IN_FILE, ShownScan
from adn_jax.io.image import Image
from adn_jax.metrics.alignment import Plane
from adn_jax.phantom.generate import case_name, make_case
from adn_jax.phantom.settings import PRESETS
from adn_jax.pipeline.adn import init_adn
from adn_jax.training.runs import write_run

SHAPE = (8, 48, 40)

SPACING = (12.0, 4.0, 4.0)

ANGLES = {"turned": 12.0, "upright": 0.0, "healthy": -7.0, "tilted": 5.0}

RECIPE = Recipe(
    name="tiny",
    system=SystemSettings(
        prepare=PrepareSettings(shape=SHAPE, spacing_mm=SPACING),
        alignment=AlignmentSettings(centre=True, search_limit_deg=10.0),
        alignment_net=AlignmentNetSettings(widths=(2, 4)),
        disentangle_net=UNetSettings(widths=(4,), groups=2),
        segment_net=UNetSettings(widths=(4,), groups=2),
    ),
)


@pytest.fixture(name="make_maps", scope="session")
def make_maps_fixture():
    return make_maps


@pytest.fixture(scope="session")
def tiny_recipe():
    return RECIPE


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Four prepared phantoms, one without an infarct; two are of the test split."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, angle) in enumerate(ANGLES.items()):
        write_prepared(folder / name, name, angle, seed)
    names = tuple(ANGLES)
    splits = {"train": names[3:], "validation": (), "test": names[:3]}
    Manifest(RECIPE.system.prepare, names, splits, folder).write()
    return folder


@pytest.fixture(scope="session")
def tiny_params():
    """Untrained parameters, drawn by NumPy: nothing is compiled for them."""
    return draw_params(RECIPE)


def draw_params(recipe, seed=0):
    shapes = jax.eval_shape(lambda key: init_adn(key, recipe.system), jax.random.key(0))
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        values = generator.normal(size=leaf.shape)
        if "var" in jax.tree_util.keystr(path[-1:]):  # of running statistics
            values = abs(values)
        return jnp.asarray(values, leaf.dtype)

    params = jax.tree.map_with_path(draw, shapes)
    return replace(params, align=jax.tree.map(lambda leaf: 0.2 * leaf, params.align))


@pytest.fixture
def tiny_run(tmp_path, tiny_params):
    """A run with untrained weights; it belongs to no data set."""
    write_run(tmp_path / "run", RECIPE, tiny_params)
    return tmp_path / "run"


@pytest.fixture
def twin_run(tiny_run, tmp_path):
    """The same run under another name."""
    return shutil.copytree(tiny_run, tmp_path / "twin")


@pytest.fixture
def write_tiny_run(tmp_path):
    """Write an untrained run of a recipe under a name."""

    def write(name, recipe=RECIPE, seed=0):
        write_run(tmp_path / name, recipe, draw_params(recipe, seed))
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def plain_recipe():
    """F alone on the aligned scan: no D."""
    return RECIPE.with_fields(
        name="plain",
        tissue_source="none",
        joint_loss=JointLossSettings(regularisation=0.0),
        segment_input="aligned",
    )


@pytest.fixture(scope="session")
def raw_head(tmp_path_factory):
    """The CT of a phantom as raw NIfTI, its infarct and skull included."""
    folder = tmp_path_factory.mktemp("raw")
    make_case(folder, 0, PRESETS["easy"], 0)
    return folder / case_name(0) / "ct.nii.gz"


def write_prepared(folder, name, angle_deg, seed):
    """A phantom as `prepare` would leave it, on a native grid of half the height."""
    maps = make_maps(SHAPE, angle_deg, lesion=name != "healthy", seed=seed, name=name)
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    head_to_world = np.eye(4)
    head_to_world[:2, :2] = [[c, -s], [s, c]]
    affine = np.diag([*SPACING[::-1], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE[::-1]) - 1) / 2)
    native_affine = affine @ np.diag([-1.0, 1.0, 0.5, 1.0])
    native_affine[0, 3] = -affine[0, 3]
    native_shape = (SHAPE[2], SHAPE[1], 2 * SHAPE[0])
    lesion = maps.lesion.astype(np.float32)
    native_lesion = np.repeat(lesion.transpose(2, 1, 0)[::-1], 2, axis=2)
    darkening = turn(0.09 * maps.aligned_lesion, angle_deg).astype(np.float32)
    write_case(
        folder,
        PreparedCase(
            name=name,
            volume=maps.volume,
            brain=(maps.volume > 0).astype(np.uint8),
            affine=affine,
            geometry={
                "shape": SHAPE[::-1],
                "affine": affine.tolist(),
                "native_shape": native_shape,
                "native_affine": native_affine.tolist(),
            },
            lesion=lesion,
            pathological=darkening,
            flags=("The head is cut at the top.",) if name == "tilted" else (),
            truth={"head_to_world": head_to_world.tolist()},
        ),
        Image(native_lesion, native_affine, "lesion label"),
    )


def make_maps(
    shape=(6, 48, 40), angle_deg=12.0, lesion=True, found=True, seed=0, name="head"
):
    """An elliptic head with one infarct on the patient's left, as a trained net sees
    it: P near the infarct's darkening, the prediction shifted by a voxel."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.linspace(-1, 1, n).reshape(s) for n, s in axes(shape))
    # Narrower in front: nothing but the mid-line mirrors it.
    inside = (x / (0.72 - 0.2 * y)) ** 2 + (y / 0.85) ** 2 + (z / 1.6) ** 2 < 1
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
        spacing_mm=SPACING,
        window_hu=(0.0, 80.0),
        threshold=0.5,
        plane=plane(angle_deg),
        first_plane=plane(angle_deg - 3.0),
        lesion=turn(infarct.astype(float), angle_deg) > 0.5,
        aligned_lesion=infarct,
        aligned_truth=darkening > 0.0125,
        **{key: value.astype(np.float32) for key, value in quantities.items()},
    )


def make_shown(maps, **how):
    """The same head as a figure of one scan shows it."""
    z, y, x = maps.spacing_mm
    affine = np.diag([x, y, z, 1.0])
    affine[:3, 3] = -np.array([x, y, z]) * (np.array(maps.volume.shape[::-1]) - 1) / 2
    volumes = {
        "lesion": maps.predicted,
        "probability": maps.prediction,
        "asymmetry": 80 * maps.asymmetry,
        "pathological": maps.pathological,
    }
    shown = ShownScan(
        name=maps.name,
        hu=np.where(maps.volume > 0, 80 * maps.volume, -1000).astype(np.float32),
        affine=affine,
        volumes={k: volume for k, volume in volumes.items() if volume is not None},
        window_hu=maps.window_hu,
        threshold=maps.threshold,
        slices=tuple(range(1, 1 + len(maps.volume))),
        counted=IN_FILE,
        brain=(0, len(maps.volume) - 1),
        midline=maps.plane,  # the grid's centre lies at 0
    )
    return replace(shown, **how)


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
