"""Stage joint of an F that sees windows of a head (DeepMedic, SEAN)."""

from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float, Integer

from adn_jax.config import Recipe, UNetSettings
from adn_jax.geometry.sampler import mirror
from adn_jax.losses.recipes import segmentation_loss, segmentation_terms
from adn_jax.models import apply_windows, training_window
from adn_jax.models.patches import Window, cut, draw_starts
from adn_jax.pipeline.adn import segment_input
from adn_jax.training.joint import align_batch, hard_dice, training_batch
from adn_jax.training.steps import STATISTICS, LossAux, Metrics
from adn_jax.types import Batch, Key, Params, Volume


def loss_of_windows(
    recipe: Recipe,
    params: Params,
    frozen: Any,
    batch: Batch,
    key: Key,
    step: Integer[Array, ""],
) -> tuple[Float[Array, ""], LossAux]:
    """L_F of an F that sees windows, with their Dice beside it.

    The next running statistics of F go with the values.
    """
    seen = _learn_from_windows(recipe, params, frozen, batch, key)
    prediction, labels, statistics = seen
    settings, spacing = recipe.joint_loss, recipe.system.prepare.spacing_mm
    with jax.named_scope("loss"):
        total, values = segmentation_loss(prediction, labels, settings, step, spacing)
        dice = hard_dice(prediction, labels, recipe.threshold).mean()
        moved = {"segment": {STATISTICS: statistics}}
        return total, {**values, "dice": dice, STATISTICS: moved}


def terms_of_windows(
    recipe: Recipe,
    params: Params,
    frozen: Any,
    batch: Batch,
    key: Key,
    step: Integer[Array, ""],
) -> Metrics:
    """The weighted terms whose sum is `loss_of_windows`."""
    prediction, labels, _ = _learn_from_windows(recipe, params, frozen, batch, key)
    settings, spacing = recipe.joint_loss, recipe.system.prepare.spacing_mm
    terms = segmentation_terms(prediction, labels, settings, step, spacing)
    return terms.weighted()


def _learn_from_windows(
    recipe: Recipe, params: Params, frozen: Any, batch: Batch, key: Key
) -> tuple[Volume, Volume, Params]:
    """F on windows of an augmented batch, some of them on lesion: what it says there,
    what it should say, and its next running statistics."""
    augment_key, draw_key, dropout_key = jax.random.split(key, 3)
    batch = training_batch(augment_key, batch, recipe.joint, recipe)
    batch = align_batch(recipe, frozen, batch)
    settings, shape = recipe.system.segment_net, recipe.system.prepare.shape
    assert not isinstance(settings, UNetSettings)  # which sees heads as a whole
    window = training_window(settings, shape)
    keys = jax.vmap(partial(jax.random.fold_in, draw_key))(batch.case)
    starts = draw_starts(
        keys,
        batch.lesion,
        batch.volume > 0,
        window,
        settings.samples,
        settings.lesion_fraction,
    )
    seen = segment_input(batch.volume, mirror(batch.volume), None, recipe.system)
    windows = cut(seen, starts, window)
    labels = cut(batch.lesion, starts, Window(window.inner, (0, 0, 0)))
    with jax.named_scope("segment"):
        logits, statistics = apply_windows(
            params["segment"],
            windows.reshape(-1, *windows.shape[2:]),
            settings,
            key=dropout_key,
            precision=recipe.system.precision,
        )
    return jax.nn.sigmoid(logits), labels.reshape(logits.shape), statistics
