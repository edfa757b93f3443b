"""The peer's cases and their augmentation equal ours for equal draws."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.benchmarks.job import draw_cases
from adn_jax.config import AugmentSettings
from adn_jax.data.augment import augment, augmented_pose, draw_all
from adn_jax.data.batches import make_batch
from adn_jax.geometry.rigid import Pose, half_extents_mm
from tests.benchmarks.torch_reference.ours import (
    RECIPE,
    SHAPE,
    channels_first,
)

torch = pytest.importorskip("torch")
from benchmarks.torch_reference import cases as reference  # noqa: E402

SPACING = RECIPE.system.prepare.spacing_mm

ALL = AugmentSettings(translation=0.2)

KEY = jax.random.key(3)

BOTH = ("lesion", "tissue")


def our_batch():
    return make_batch(draw_cases(SHAPE, 3), jnp.asarray)


def our_draws(settings):
    drawn = draw_all(KEY, our_batch().case, settings)
    gamma, flip, rotation, translation = (
        torch.tensor(np.asarray(array))
        for array in (
            drawn.gamma,
            drawn.flip,
            drawn.motion.rotation,
            drawn.motion.translation,
        )
    )
    return reference.Draws(gamma, flip, reference.Pose(rotation, translation))


def check_cases(found, batch):
    labels = np.stack([batch.lesion[..., 0], batch.tissue], axis=1)
    np.testing.assert_array_equal(found.labels, labels)
    volume = channels_first(batch.volume)
    np.testing.assert_allclose(found.volume, volume, rtol=0, atol=1e-5)


def test_cases_are_ours():
    found = reference.made_up_cases(RECIPE, 3, "cpu", BOTH)
    assert found.labels.unique().tolist() == [0, 1, 2, 3]
    check_cases(found, our_batch())


@pytest.mark.parametrize(
    "settings",
    [ALL, replace(ALL, gamma=0.0, mirror=False), replace(ALL, rotation_deg=0.0)],
)
def test_augmentation_equals_ours(settings):
    draws = our_draws(settings)
    assert draws.flip.unique().tolist() == [False, True]
    found = reference.augment(
        reference.made_up_cases(RECIPE, 3, "cpu", BOTH), draws, settings, SPACING
    )
    ours = partial(augment, settings=settings, spacing_mm=SPACING)
    check_cases(found, jax.jit(ours)(KEY, our_batch()))


def test_pose_of_an_upright_head_equals_ours():
    case = our_batch().case
    ours = augmented_pose(
        KEY, Pose.identity(3), case, ALL, half_extents_mm(SHAPE, SPACING)
    )
    found = reference.pose_of_upright(our_draws(ALL), SHAPE, SPACING)
    for name in ("rotation", "translation"):
        one, other = getattr(found, name), getattr(ours, name)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_draws_cover_the_ranges():
    torch.manual_seed(0)
    draws = reference.draw(reference.Cases(torch.empty(4000, 1, 1, 1, 1), None), ALL)
    limits = torch.tensor([0, 0, np.deg2rad(10), 0.2, 0.2, 0], dtype=torch.float32)
    motion = torch.cat(draws.motion, dim=1)
    assert draws.gamma.aminmax() == pytest.approx((0.75, 1.25), abs=1e-3)
    for extreme in motion.max(0).values, -motion.min(0).values:
        np.testing.assert_allclose(extreme, limits, rtol=0.01)
    assert draws.flip.float().mean().item() == pytest.approx(0.5, abs=0.05)
