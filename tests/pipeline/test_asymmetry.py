"""A, Q, X_hat, X_tilde against the authors' values and the paper's equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from adn_jax.config import AsymmetrySettings
from adn_jax.geometry.sampler import mirror
from adn_jax.pipeline.adn import (
    anatomical_asymmetry,
    compensated_volume,
    pathological_asymmetry,
    salient_volume,
    total_asymmetry,
    within_both_sides,
)
from tests.golden import value

AUTHORS = AsymmetrySettings(anatomical="positive_part", compensated="clipped")
PAPER = AsymmetrySettings()


def chain(aligned, pathological, settings):
    """The maps of an output of D."""
    mirrored = mirror(aligned)
    asymmetry = total_asymmetry(aligned, mirrored)
    pathological = pathological_asymmetry(asymmetry, pathological, settings)
    anatomical = anatomical_asymmetry(asymmetry, pathological, settings)
    return {
        "A": asymmetry,
        "P": pathological,
        "Q": anatomical,
        "Xhat": salient_volume(aligned, anatomical),
        "Xtilde": compensated_volume(aligned, mirrored, pathological, settings),
    }


@pytest.mark.parametrize("name", ["A", "Q", "Xhat", "Xtilde"])
def test_authors_values(name):
    maps = jax.jit(chain, static_argnums=2)(value("dis_X"), value("dis_P"), AUTHORS)
    np.testing.assert_allclose(maps[name], value(f"dis_{name}"), rtol=1e-5, atol=1e-7)


def test_the_paper_adds_up():
    aligned, pathological = jnp.asarray(value("dis_X")), jnp.asarray(value("dis_P"))
    maps = chain(aligned, pathological, PAPER)
    np.testing.assert_allclose(maps["A"], maps["Q"] + pathological, atol=1e-6)
    np.testing.assert_allclose(maps["Xhat"] - aligned, maps["Q"], atol=1e-6)
    np.testing.assert_allclose(maps["Xtilde"] - aligned, pathological, atol=1e-6)


@pytest.mark.parametrize("anatomical", ["difference", "positive_part"])
@pytest.mark.parametrize("compensated", ["sum", "clipped"])
def test_parts_of_a_add_up_to_it_and_stay_between_the_sides(anatomical, compensated):
    settings = AsymmetrySettings(anatomical, compensated, pathological="part")
    aligned, output = jnp.asarray(value("dis_X")), jnp.asarray(value("dis_P"))
    maps = jax.jit(chain, static_argnums=2)(aligned, output, settings)
    np.testing.assert_allclose(maps["P"], maps["A"] * output, rtol=1e-6)
    np.testing.assert_allclose(maps["P"] + maps["Q"], maps["A"], rtol=1e-6, atol=1e-7)
    brighter = np.maximum(aligned, mirror(aligned))
    for name in ("Xhat", "Xtilde"):
        assert (maps[name] >= aligned).all()
        assert (maps[name] <= brighter + 1e-6).all()
    gradient = jax.grad(lambda s: chain(aligned, s, settings)["Xhat"].sum())(output)
    np.testing.assert_allclose(gradient, -maps["A"], rtol=1e-6)


def test_only_the_darker_side_is_asymmetric():
    aligned = jnp.full((1, 2, 2, 4, 1), 0.5).at[0, 0, 0, 0].set(0.3)
    asymmetry = total_asymmetry(aligned, mirror(aligned))
    assert float(asymmetry[0, 0, 0, 0, 0]) == pytest.approx(0.2)
    assert float(asymmetry.sum()) == pytest.approx(0.2)


def test_all_pathology_kept_makes_the_scan_its_own_salient_volume():
    aligned = jnp.asarray(value("dis_X"))
    asymmetry = total_asymmetry(aligned, mirror(aligned))
    for settings in (PAPER, AUTHORS):
        anatomical = anatomical_asymmetry(asymmetry, asymmetry, settings)
        np.testing.assert_array_equal(salient_volume(aligned, anatomical), aligned)


def brain_with_gaps():
    """A disk of brain in two slices, off the middle, with two voxels of dark CSF."""
    y, x = np.mgrid[:24, :32]
    disk = (y - 12) ** 2 + (x - 17) ** 2 <= 90
    volume = np.stack([disk, disk]).astype(np.float32)[None, ..., None] * 0.4
    volume[0, 0, 12, 16:18] = 0
    return jnp.asarray(volume)


@pytest.mark.parametrize("rim", [1, 3])
def test_the_rim_is_left_out_on_both_sides(rim):
    """Against SciPy's closing and erosion, slice by slice."""
    aligned = brain_with_gaps()
    mirrored = mirror(aligned)
    found = jax.jit(within_both_sides, static_argnums=2)(aligned, mirrored, rim)
    both = (np.asarray(aligned) > 0) & (np.asarray(mirrored) > 0)
    square = np.ones((3, 3))
    for z in range(2):
        closed = ndimage.binary_closing(both[0, z, :, :, 0], square)
        inner = ndimage.binary_erosion(closed, square, iterations=rim)
        np.testing.assert_array_equal(found[0, z, :, :, 0], inner)
        assert found[0, z, 12, 16, 0] == 1


def test_a_rim_is_at_least_a_voxel_where_there_is_one():
    assert AsymmetrySettings().rim_voxels((5.0, 1.2, 1.2)) == 0
    assert AsymmetrySettings(rim_mm=2.4).rim_voxels((5.0, 1.2, 1.2)) == 2
    assert AsymmetrySettings(rim_mm=2.4).rim_voxels((9.0, 3.0, 3.0)) == 1
    assert AsymmetrySettings(rim_mm=1.0).rim_voxels((9.0, 3.0, 3.0)) == 1
