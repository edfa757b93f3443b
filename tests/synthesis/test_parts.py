"""Parts of a drawn head against what is known of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from adn_jax.config import StreamSettings
from adn_jax.synthesis.atlas import LEVELS, LOW_MM, TERRITORY_NAMES, load_head_atlas
from adn_jax.synthesis.fields import ScanGrid, ball, random_fields, trilinear
from adn_jax.synthesis.infarct import CHANCES, draw_infarcts
from adn_jax.synthesis.scanner import draw_scanner, slice_mix

SPACING = (16.0, 7.0, 7.0)


@pytest.fixture(scope="module")
def atlas():
    return load_head_atlas(SPACING)


def test_interpolation_is_that_of_scipy():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 6, 7, 2)).astype(np.float32)
    points = rng.uniform(0, 4, (3, 40)).astype(np.float32)
    step, first = np.array([2.0, 1.5, 1.0], np.float32), -np.ones(3, np.float32)
    found = jax.jit(lambda v, p: trilinear(v, p, first, step))(
        values, points * step[:, None] - 1
    )
    for channel in range(2):
        wanted = ndimage.map_coordinates(values[..., channel], points[::-1], order=1)
        np.testing.assert_allclose(found[channel], wanted, atol=1e-5)


def test_fields_are_even_odd_and_own():
    rng = np.random.default_rng(1)
    points = jnp.asarray(rng.uniform(-90, 90, (3, 3000)), jnp.float32)
    mirrored = points.at[0].multiply(-1)
    here, there = (
        random_fields(jax.random.key(0), each, 30.0, even=1, odd=1, own=1)
        for each in (points, mirrored)
    )
    np.testing.assert_allclose(here[0], there[0], atol=1e-4)
    np.testing.assert_allclose(here[1], -there[1], atol=1e-4)
    assert abs(np.corrcoef(here[2], there[2])[0, 1]) < 0.3
    assert (np.abs(np.std(here, axis=1) - 0.8) < 0.35).all()


def test_a_small_ball_has_its_volume():
    grid = ScanGrid.of((40, 40, 40), (1.0, 1.0, 1.0))
    z, y, x = np.meshgrid(grid.z, grid.y, grid.x, indexing="ij")
    share = ball(jnp.asarray(np.stack([x, y, z])), jnp.ones(3), 4.0, np.ones(3))
    assert float(share.sum()) == pytest.approx(4 / 3 * np.pi * 4.0**3, rel=0.2)


@pytest.mark.parametrize("slice_mm", [1.0, 8.0, 10.0])
def test_thick_slices_average_and_thin_ones_change_nothing(slice_mm):
    settings = StreamSettings(slice_mm=(slice_mm, slice_mm))
    grid = ScanGrid.of((20, 4, 4), (5.0, 2.0, 2.0))
    mix = slice_mix(grid, draw_scanner(jax.random.key(0), settings))
    np.testing.assert_allclose(mix.sum(1), 1.0, atol=1e-5)
    assert (mix >= 0).all()
    if slice_mm < 5:
        np.testing.assert_array_equal(mix, np.eye(20))
    else:  # a slope stays a slope, away from the ends
        np.testing.assert_allclose((mix @ grid.z)[3:-3], grid.z[3:-3], atol=2.6)
        assert float(jnp.diagonal(mix).max()) < 1.0


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ((45, 12, 20), "mca_superior"),
        ((6, 50, 20), "aca"),
        ((10, -88, 4), "pca"),
        ((25, 2, 2), "mca_deep"),
        ((20, -65, -45), "cerebellum_inferior"),
        ((3, -30, -30), "brainstem"),
    ],
)
def test_places_lie_in_their_arteries_territories(atlas, place, name):
    maps = jnp.moveaxis(atlas.territories, 0, -1)
    points = jnp.asarray(place, jnp.float32).reshape(3, 1)
    inside = trilinear(maps, points, LOW_MM, np.full(3, 4.0, np.float32))[:9, 0]
    assert TERRITORY_NAMES[int(inside.argmax())] == name
    assert float(inside.max()) > 0


def test_atrophy_turns_tissue_into_csf(atlas):
    count = len(LEVELS)
    tissue = atlas.fine[..., :count] + atlas.fine[..., count : 2 * count]
    volumes = tissue.sum((0, 1, 2))
    assert (jnp.diff(volumes) < 0).all()
    assert (jnp.diff(tissue, axis=-1) < 1e-5).all()


def test_infarcts_are_as_many_as_their_relative_chances_say(atlas):
    """Without the chance of none, as for held-out heads."""
    settings = StreamSettings(infarcts=(0.0, 0.4, 0.15, 0.1))
    keys = jax.random.split(jax.random.key(3), 2000)
    draw = jax.vmap(lambda key: draw_infarcts(key, atlas, settings).present.sum())
    counts = np.bincount(np.asarray(jax.jit(draw)(keys)), minlength=4) / len(keys)
    np.testing.assert_allclose(counts, np.array([0, 0.4, 0.15, 0.1]) / 0.65, atol=0.04)


def test_volumes_of_infarcts_have_their_quantiles(atlas):
    settings = StreamSettings()
    keys = jax.random.split(jax.random.key(0), 2000)
    found = jax.jit(jax.vmap(lambda key: draw_infarcts(key, atlas, settings)))(keys)
    count = found.present.sum(1)
    for number, chance in enumerate(settings.infarcts):
        assert float((count == number).mean()) == pytest.approx(chance, abs=0.04)
    free = np.isin(
        found.territory[:, 0], [TERRITORY_NAMES.index(n) for n in ("aca", "pca", "mca")]
    )
    volume = 4 / 3 * np.pi * np.asarray(found.radius)[free, 0] ** 3 / 1000
    quantiles = np.quantile(volume, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, settings.infarct_quantiles_ml, rtol=0.35)
    assert ((found.centre[..., 0] * found.side) > -3).all()
    assert set(np.unique(found.side)) == {-1.0, 1.0}


def drawn_infarcts(atlas, **settings):
    """2000 heads with an infarct each."""
    settings = StreamSettings(infarcts=(0.0, 1.0), **settings)
    keys = jax.random.split(jax.random.key(1), 2000)
    return jax.jit(jax.vmap(lambda key: draw_infarcts(key, atlas, settings)))(keys)


def test_no_infarct_is_smaller_than_the_smallest(atlas):
    """Nor does one begin where the arteries are too small for it."""
    found = drawn_infarcts(atlas, infarct_limits_ml=(10.0, 330.0))
    volume = 4 / 3 * np.pi * np.asarray(found.radius) ** 3 / 1000
    assert volume.min() > 10 - 1e-3
    names = {TERRITORY_NAMES[each] for each in np.unique(found.territory)}
    assert names.isdisjoint({"thalamus", "brainstem", "lacunar"})
    assert {"mca_deep", "watershed_front", "pca"} <= names
    chances = np.array([CHANCES[name] for name in TERRITORY_NAMES])
    chances[[TERRITORY_NAMES.index(n) for n in set(TERRITORY_NAMES) - names]] = 0
    share = np.bincount(found.territory[:, 0], minlength=len(chances)) / 2000
    np.testing.assert_allclose(share, chances / chances.sum(), atol=0.04)


def test_the_shift_of_the_mid_line_has_both_its_ends(atlas):
    narrow, wide, none = (
        np.asarray(drawn_infarcts(atlas, midline_mm=ends).midline_mm)
        for ends in ((8.0, 8.0), (0.0, 8.0), (0.0, 0.0))
    )
    assert narrow.max() > 4
    assert (narrow >= wide).all()
    assert (narrow[narrow > 0] > wide[narrow > 0]).all()
    assert not none.any()
