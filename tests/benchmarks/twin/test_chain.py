"""The peer's chain equals ours: every map between the scan and the prediction."""

from dataclasses import fields, replace
from functools import partial

import jax
import numpy as np
import pytest

from adn_jax.config import (
    AlignmentSettings,
    AsymmetrySettings,
    PrepareSettings,
    Recipe,
    UNetSettings,
    ViewNetSettings,
)
from adn_jax.errors import UserError
from adn_jax.pipeline.adn import apply_adn, init_adn

torch = pytest.importorskip("torch")
from adn_jax.benchmarks.twin.chain import Adn, compensated_volume  # noqa: E402
from adn_jax.benchmarks.twin.parameters import state_of  # noqa: E402

SHAPE = (4, 8, 12)
NET = UNetSettings(widths=(2,), groups=2)
RECIPE = Recipe(
    name="tiny",
    prepare=PrepareSettings(shape=SHAPE, spacing_mm=(5.0, 1.2, 1.5)),
    view_net=ViewNetSettings(widths=(2,)),
    disentangle_net=NET,
    segment_net=NET,
)
RECIPES = {
    "paper": RECIPE,
    "authors": replace(RECIPE, asymmetry=AsymmetrySettings("positive_part", "clipped")),
    "centred": replace(RECIPE, alignment=AlignmentSettings(centre=True)),
    "centre alone": replace(
        RECIPE, alignment=AlignmentSettings(network=False, centre=True)
    ),
    "out of plane": replace(
        RECIPE,
        view_net=ViewNetSettings((2,), (10.0, 20.0, 30.0), (0.1, 0.2, 0.3)),
    ),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_map_equals_ours(recipe):
    params = init_adn(jax.random.key(0), recipe)
    volume = jax.random.uniform(jax.random.key(1), (2, *SHAPE, 1))
    volume = volume * (volume > 0.2)
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(partial(apply_adn, recipe=recipe))(params, volume)
    adn = Adn(recipe).eval()
    for field in fields(params):
        network = getattr(adn, field.name)
        if network is not None:
            network.load_state_dict(state_of(getattr(params, field.name)))
    with torch.inference_mode():
        outputs = adn(torch.tensor(np.moveaxis(volume, -1, 1)))
    found = {field.name: getattr(outputs, field.name) for field in fields(outputs)}
    found["compensated"] = compensated_volume(outputs, recipe.asymmetry)
    assert found.keys() == {field.name for field in fields(expected)}
    for name, value in found.items():
        ours = np.asarray(getattr(expected, name))
        ours = np.moveaxis(ours, -1, 1) if ours.ndim == 5 else ours
        np.testing.assert_allclose(value, ours, rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    "alignment",
    [AlignmentSettings(search_limit_deg=4.0), AlignmentSettings(refine_steps=3)],
)
def test_search_and_refinement_are_refused(alignment):
    with pytest.raises(UserError, match="refine-steps 0 for both"):
        Adn(replace(RECIPE, alignment=alignment))
