"""Heads as a pure function of a key: `draw_heads`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Integer

from adn_jax.config import PrepareSettings
from adn_jax.config.stream import StreamSettings
from adn_jax.geometry.rigid import Pose, half_extents_mm
from adn_jax.synthesis.atlas import LOW_MM, HeadAtlas
from adn_jax.synthesis.fields import ScanGrid, materialise, trilinear
from adn_jax.synthesis.infarct import draw_infarcts, margins, pressure, weights
from adn_jax.synthesis.scanner import (
    artefacts,
    brain_mask,
    draw_scanner,
    expose,
    own_sulci,
    slice_jitter,
    slice_mix,
    through_slices,
)
from adn_jax.synthesis.shape import draw_pose, draw_shape
from adn_jax.synthesis.tissue import compose, read_atlas
from adn_jax.types import Batch, HeadTruth, Key, register_arrays

# Ranges are arguments of a program, so that it is compiled once for all of them.
register_arrays(StreamSettings)

DARKEST = 1 / 1024
"""Least intensity in the brain: 0 is outside it."""


def draw_heads(
    key: Key,
    numbers: Integer[jax.Array, " b"],
    atlas: HeadAtlas,
    settings: StreamSettings,
    prepare: PrepareSettings,
) -> Batch:
    """Prepared heads with everything known of them, one for each number.

    Args:
      key: randomness of the stream.
      numbers: which heads; the same key and number give the same bits, whatever else
        is drawn beside.
      atlas: `load_atlas` for the grid's spacing.
      settings: ranges; traced, but for the largest number of infarcts.
      prepare: grid and HU window; static.

    Returns:
      The batch as training takes it, with `truth`; `case` holds the numbers.
    """
    draw = partial(draw_head, atlas=atlas, settings=settings, prepare=prepare)
    # one after the other: the program of a head is the same for any batch and device
    return jax.lax.map(
        lambda number: draw(jax.random.fold_in(key, number), number), numbers
    )


def draw_head(
    key: Key,
    number: Integer[jax.Array, ""],
    atlas: HeadAtlas,
    settings: StreamSettings,
    prepare: PrepareSettings,
) -> Batch:
    """One head, without the axis of the batch."""
    keys = jax.random.split(key, 10)
    shape, spacing, real = prepare.shape, prepare.spacing_mm, number >= 0
    grid = ScanGrid.of(shape, spacing)
    pose = draw_pose(keys[0], settings)
    infarcts = draw_infarcts(keys[1], atlas, settings)
    scanner = draw_scanner(keys[2], settings)
    jitter = slice_jitter(keys[3], grid, scanner.ghost, settings)
    form = draw_shape(keys[4], grid, pose, jitter, infarcts, atlas, settings)
    atrophy = form.atrophy - pressure(form.brain, infarcts)
    margin = margins(form.brain, form.wobble, atlas, infarcts)
    fields = (form.regional, form.ageing, form.rim, atrophy)
    fine = grid.refine(
        jnp.concatenate([form.brain, jnp.stack(fields), margin, form.wobble[:1]])
    )
    points, (regional, ageing, rim, atrophy) = fine[:3], fine[3:7]
    margin, wobble = fine[7:-1], fine[-1]

    points = materialise(points, real)
    sampled = trilinear(atlas.fine, points, LOW_MM, atlas.step_mm)
    sampled = materialise(sampled, real)
    depth_key, sulci_key = jax.random.split(keys[5])
    low, high = settings.sulci
    open_ = low + (high - low) * jnp.clip(atrophy, 0, 1) * jax.random.uniform(depth_key)
    sulci = open_ * own_sulci(sulci_key, shape, spacing)
    anatomy = read_atlas(sampled, atrophy, sulci)
    blur = np.array(spacing[::-1], np.float32) / 2
    soft, hard = weights(points, margin, wobble, infarcts, 0.7 * spacing[2] + 1.0)
    tissue = compose(
        keys[6], anatomy, points, regional, ageing, infarcts, soft, hard, blur, settings
    )
    hu = tissue.hu - tissue.loss_hu
    hu += artefacts(keys[7], anatomy, points, rim, grid, scanner, settings)
    hu, tissue = materialise((hu, tissue), real)
    mix = slice_mix(grid, scanner)
    hu = expose(keys[8], hu, mix, scanner, real)
    brain = brain_mask(keys[9], anatomy, rim, pose, grid, settings)
    seen = through_slices(mix, jnp.stack([tissue.lesion, tissue.loss_hu]))
    lesion, loss = jnp.where(brain, seen, 0.0)
    low, high = prepare.window_hu
    volume = jnp.clip((hu - low) / (high - low), DARKEST, 1.0)
    maps = jnp.stack([tissue.grey, tissue.white, tissue.csf], axis=-1)
    angle, (x, y) = pose.mirror_line()
    half = half_extents_mm(shape, spacing)
    return Batch(
        volume=jnp.where(brain, volume, 0.0)[..., None],
        lesion=lesion[..., None],
        tissue=jnp.where(brain, 1 + maps.argmax(-1), 0).astype(jnp.uint8),
        case=number,
        truth=HeadTruth(
            pathological=(scanner.gain * loss / (high - low))[..., None],
            tissue=jnp.where(brain[..., None], maps, 0.0),
            pose=Pose.in_plane(angle, x / half[0], y / half[1]),
            head_to_world=pose.matrix(),
        ),
    )
