from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import AlignmentSettings, AugmentSettings, SystemSettings
from adn_jax.geometry.rigid import Pose
from adn_jax.metrics.overlap import dice
from adn_jax.models.blocks import remat_on
from adn_jax.training import stages
from adn_jax.training.runs import initial_params
from adn_jax.training.stages import (
    hard_dice,
    is_unmarked,
    make_stage,
    tissue_accuracy,
    training_batch,
    unmatched_share,
)
from adn_jax.types import Batch
from tests.training.tiny import head, small_recipe, tiny_recipe

RNG = np.random.default_rng(0)


def batch_of(*seeds):
    heads = [head("any", seed) for seed in seeds]
    return Batch(
        volume=jnp.stack([h.volume for h in heads])[..., None],
        lesion=jnp.stack([h.lesion for h in heads])[..., None].astype(jnp.float32),
        tissue=jnp.stack([h.tissue for h in heads]),
        case=jnp.array(seeds, jnp.int32),
    )


def test_hard_dice_is_the_dice_of_each_case():
    prediction = RNG.random((3, 4, 5, 6, 1), np.float32)
    lesion = (RNG.random((3, 4, 5, 6, 1)) > 0.7).astype(np.float32)
    prediction[2], lesion[2] = 0.0, 0.0
    found = hard_dice(jnp.asarray(prediction), jnp.asarray(lesion), 0.6)
    expected = [
        dice(prediction[i, ..., 0] >= 0.6, lesion[i, ..., 0] > 0) for i in range(2)
    ]
    np.testing.assert_allclose(found[:2], expected, rtol=1e-6)
    assert found[2] == 1


def test_from_a_half_on_a_partial_label_counts():
    lesion = jnp.array([0.2, 0.49, 0.51, 1.0]).reshape(1, 1, 1, 4, 1)
    found = jnp.array([0.9, 0.1, 0.9, 0.1]).reshape(1, 1, 1, 4, 1)
    assert hard_dice(found, lesion, 0.5) == pytest.approx(0.5)


def test_what_is_too_small_to_count_marks_no_head():
    recipe = tiny_recipe(threshold=0.4)  # a voxel is 0.8 mL
    voxels = jnp.array([0, 1, 2])[:, None] > jnp.arange(4)
    prediction = jnp.where(voxels, 0.4, 0.39)[..., None, None, None]
    assert is_unmarked(prediction, recipe).tolist() == [True, False, False]
    recipe = replace(recipe, least_lesion_ml=1.0)
    assert is_unmarked(prediction, recipe).tolist() == [True, True, False]


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_healthy_cases_have_a_score_where_the_recipe_says_so(threshold):
    """All is marked, or nothing; the second case is without infarct, the third has one
    that is thinner than half a voxel."""
    recipe = small_recipe(threshold=threshold)
    params = initial_params(jax.random.key(0), recipe, "joint")
    frozen = {"align": initial_params(jax.random.key(1), recipe, "align")}
    batch = batch_of(0, 1, 2)
    lesion = batch.lesion.at[1].set(0).at[2].multiply(0.4)
    batch = replace(batch, lesion=lesion)
    plain, scored = (
        make_stage("joint", replace(recipe, score_healthy=healthy))
        for healthy in (False, True)
    )
    values = jax.jit(plain.evaluate)(params, frozen, batch)
    assert plain.score == "dice"
    assert list(values) == ["dice"]
    found = jax.jit(scored.evaluate)(params, frozen, batch)
    np.testing.assert_array_equal(found["dice"], values["dice"])
    assert np.isnan(found["dice"]).tolist() == [False, True, True]
    unmarked = float(threshold == 1)
    np.testing.assert_array_equal(found["unmarked"], [np.nan, unmarked, np.nan])
    np.testing.assert_array_equal(
        found[scored.score], [values["dice"][0], unmarked, np.nan]
    )


@pytest.mark.parametrize("name", ["tissue", "joint"])
@pytest.mark.parametrize("remat", ["nothing", "norms"])
def test_the_recipe_says_what_is_computed_again(name, remat):
    recipe = tiny_recipe(remat=remat, alignment=AlignmentSettings())
    stage = make_stage(name, recipe)
    params = initial_params(jax.random.key(0), recipe, name)
    frozen = {"align": initial_params(jax.random.key(1), recipe, "align")}
    inputs = frozen, batch_of(0), jax.random.key(2), jnp.int32(0)
    traced = jax.make_jaxpr(lambda params: stage.loss(params, *inputs))(params)
    assert ("remat" in str(traced)) == (remat == "norms")


@pytest.mark.parametrize("platform", ["cpu", "tpu", "gpu"])
def test_norms_are_computed_again_on_a_gpu_unless_the_recipe_says_otherwise(platform):
    assert remat_on(platform, SystemSettings().remat) == (
        "norms" if platform == "gpu" else "nothing"
    )
    assert remat_on(platform, "nothing") == "nothing"
    assert remat_on(platform, "blocks") == "blocks"


@pytest.mark.parametrize("soft_labels", [True, False])
def test_labels_are_partial_where_the_recipe_asks_for_it(soft_labels):
    recipe = tiny_recipe(soft_labels=soft_labels)
    still = AugmentSettings(gamma=0.0, mirror=False, rotation_deg=0.0)
    shares = jnp.linspace(0, 1, 256).reshape(1, 1, 16, 16, 1)
    batch = Batch(shares, shares, shares[..., 0].astype(jnp.int32), jnp.zeros(1, int))
    settings = replace(recipe.joint, augment=still)
    label = training_batch(jax.random.key(0), batch, settings, recipe).lesion
    expected = shares if soft_labels else (shares >= 0.5).astype(jnp.float32)
    np.testing.assert_array_equal(label, expected)


def test_unmatched_share_of_a_symmetric_head_is_zero():
    half = RNG.random((2, 4, 4, 3, 1), np.float32)
    whole = jnp.asarray(np.concatenate([half, half[:, :, :, ::-1]], axis=3))
    np.testing.assert_allclose(unmatched_share(whole, whole), 0, atol=1e-6)


def test_unmatched_share_is_one_without_any_partner_or_out_of_view():
    one_sided = jnp.zeros((1, 2, 2, 4, 1)).at[:, :, :, :2].set(0.7)
    assert unmatched_share(one_sided, one_sided) == pytest.approx(1)
    assert unmatched_share(one_sided, jnp.zeros_like(one_sided)) == pytest.approx(1)
    half_seen = jnp.zeros((1, 2, 2, 4, 1)).at[:, :, :, 1:3].set(0.35)
    assert unmatched_share(one_sided, half_seen) == pytest.approx(0.5)


def test_tissue_accuracy_looks_at_tissue_alone():
    batch = batch_of(0, 1)
    right = jax.nn.one_hot(batch.tissue, 5)
    np.testing.assert_allclose(tissue_accuracy(right, batch), 1)
    always_white = jnp.zeros((*batch.tissue.shape, 5)).at[..., 2].set(1.0)
    white, inside = (batch.tissue == 2), (batch.tissue > 0)
    expected = white.sum((1, 2, 3)) / inside.sum((1, 2, 3))
    np.testing.assert_allclose(tissue_accuracy(always_white, batch), expected)


def test_tissue_net_learns_on_the_aligned_head(monkeypatch):
    recipe = tiny_recipe(
        tissue_source="network",
        alignment=AlignmentSettings(network=False, centre=True),
    )
    still = AugmentSettings(gamma=0.0, mirror=False, rotation_deg=0.0)
    recipe = replace(recipe, tissue=replace(recipe.tissue, augment=still))
    stage = make_stage("tissue", recipe)
    seen = []

    def read_tissue(_params, volume, _settings, **_):
        seen.append(volume)
        return -jnp.abs(volume - jnp.array([0.0, 0.475, 0.525, 0.575, 9.0]))

    monkeypatch.setattr(stages, "apply_unet", read_tissue)
    upright = batch_of(0, 1)
    away = Batch(
        volume=jnp.roll(upright.volume, 2, axis=3),
        lesion=jnp.roll(upright.lesion, 2, axis=3),
        tissue=jnp.roll(upright.tissue, 2, axis=3),
        case=upright.case,
    )
    found = [stage.evaluate(None, {}, batch)["accuracy"] for batch in (upright, away)]
    assert found[0].min() > 0.8
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-3)
    key, step = jax.random.key(0), jnp.int32(0)
    losses = [stage.loss(None, {}, batch, key, step)[0] for batch in (upright, away)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


@pytest.mark.parametrize("source", ["maps", "network", "none"])
@pytest.mark.parametrize("name", ["align", "tissue", "joint"])
def test_every_stage_has_a_loss_its_values_and_a_score(name, source):
    recipe = tiny_recipe(tissue_source=source)
    stage = make_stage(name, recipe)
    params, align, tissue = (
        jax.eval_shape(
            partial(initial_params, recipe=recipe, stage=each), jax.random.key(0)
        )
        for each in (name, "align", "tissue")
    )
    frozen = {"align": align, "tissue": tissue, "search": Pose.identity(2)}
    batch = batch_of(0, 1)

    def both(params, frozen):
        loss = stage.loss(params, frozen, batch, jax.random.key(0), jnp.int32(0))
        return loss, stage.evaluate(params, frozen, batch)

    (total, values), evaluated = jax.eval_shape(both, params, frozen)
    assert total.shape == ()
    assert all(value.shape == () for value in values.values())
    assert evaluated[stage.score].shape == (2,)
    assert ("dice" in values) is (name == "joint")
    assert ("tissue" in values) is (name == "joint")


def test_a_head_without_an_infarct_says_nothing_of_the_joint_stage():
    recipe = tiny_recipe(alignment=AlignmentSettings(network=False, centre=True))
    stage, both = make_stage("joint", recipe), batch_of(0, 1)
    empty = replace(both, lesion=both.lesion.at[1].set(0.4))
    params = initial_params(jax.random.key(0), recipe, "joint")
    dice, half = (stage.evaluate(params, {}, batch)["dice"] for batch in (both, empty))
    assert np.isfinite(dice).all()
    np.testing.assert_array_equal(half, [dice[0], np.nan])


def test_align_loss_follows_the_search_and_needs_no_label():
    recipe = tiny_recipe()
    recipe = replace(recipe, align_loss=replace(recipe.align_loss, mirror=0.0))
    stage = make_stage("align", recipe)
    params = jax.eval_shape(
        partial(initial_params, recipe=recipe, stage="align"), jax.random.key(0)
    )
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)

    @jax.jit
    def loss(turn, lesion):
        batch = batch_of(0, 1)
        batch = Batch(batch.volume, lesion, batch.tissue, batch.case)
        table = Pose.identity(2).turned(turn)
        key, step = jax.random.key(0), jnp.int32(0)
        total, _ = stage.loss(params, {"search": table}, batch, key, step)
        return total

    lesion = batch_of(0, 1).lesion
    near, far = loss(0.0, lesion), loss(1.5, lesion)
    assert far > near + 0.1
    assert loss(0.0, 1 - lesion) == near
