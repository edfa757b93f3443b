"""A, Q, X_hat, X_tilde against the authors' values and the paper's equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import AsymmetrySettings
from adn_jax.geometry.mirror import mirror
from adn_jax.pipeline.asymmetry import (
    anatomical_asymmetry,
    compensated_volume,
    salient_volume,
    total_asymmetry,
)
from tests.golden import value

AUTHORS = AsymmetrySettings(anatomical="positive_part", compensated="clipped")
PAPER = AsymmetrySettings()


def chain(aligned, pathological, settings):
    mirrored = mirror(aligned)
    asymmetry = total_asymmetry(aligned, mirrored)
    anatomical = anatomical_asymmetry(asymmetry, pathological, settings)
    return {
        "A": asymmetry,
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
