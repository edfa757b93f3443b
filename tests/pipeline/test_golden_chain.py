"""The whole chain at full size, 40 x 256 x 256, against the authors' code."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from adn_jax.config.recipe_file import load_recipe
from adn_jax.models.torch_names import from_torch
from adn_jax.pipeline.adn import AdnParams, apply_adn
from tests import golden, quick

REFERENCE = load_recipe(Path(__file__).parents[2] / "configs" / "adn_reference.py")
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def volume():
    drawn = golden.volume(1018, (1, 1, 40, 256, 256))
    smooth = uniform_filter(drawn[0, ..., 0], 5, mode="constant")
    return jnp.asarray(smooth)[None, ..., None]


@pytest.fixture(scope="module")
def outputs(volume):
    params = AdnParams(
        align=from_torch(
            golden.parameters("T", 1017), REFERENCE.system.alignment_net, "T"
        ),
        disentangle=from_torch(
            golden.parameters("resunet_f32", 1019),
            REFERENCE.system.disentangle_net,
            "D",
        ),
        segment=from_torch(
            golden.parameters("resunet_f32", 1020), REFERENCE.system.segment_net, "F"
        ),
    )
    with jax.default_matmul_precision("highest"):
        chain = jax.jit(apply_adn, static_argnums=2, compiler_options=quick.AS_EVER)
        return chain(params, volume, REFERENCE.system)


@pytest.fixture(scope="module")
def stored(shared):
    with np.load(shared / "golden" / "values.npz") as values:
        return {name: values[name] for name in values if name[:2] in {"T_", "fu"}}


def every(volume, z, y, x):
    """A subset of the voxels in the order of the stored values."""
    return np.moveaxis(np.asarray(volume), -1, 1)[:, :, ::z, ::y, ::x]


@pytest.mark.shared
@pytest.mark.slow
def test_t_aligns_as_the_authors_code(stored, outputs, volume):
    alignment = outputs.alignment
    np.testing.assert_allclose(alignment.matrix, stored["T_M"], atol=TOLERANCE)
    np.testing.assert_allclose(alignment.inverse, stored["T_Minv"], atol=TOLERANCE)
    aligned = every(outputs.aligned, 8, 16, 16)
    np.testing.assert_allclose(aligned, stored["T_xt_sub"], atol=TOLERANCE)
    flip = jnp.abs(outputs.aligned - outputs.mirrored).mean()
    back = alignment.unwarp(outputs.mirrored)
    np.testing.assert_allclose(flip, stored["T_flip"], atol=TOLERANCE)
    np.testing.assert_allclose(
        jnp.abs(volume - back).mean(), stored["T_rec"], atol=TOLERANCE
    )


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("letter", "name"),
    [
        ("A", "asymmetry"),
        ("P", "pathological"),
        ("Q", "anatomical"),
        ("Y", "aligned_prediction"),
        ("O", "prediction"),
    ],
)
def test_the_maps_are_the_authors(stored, outputs, letter, name):
    ours = every(getattr(outputs, name), 4, 8, 8)
    np.testing.assert_allclose(ours, stored[f"full_{letter}"], atol=TOLERANCE)
