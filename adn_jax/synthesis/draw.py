"""Heads as a pure function of a key: `draw_heads`."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from adn_jax.config import PrepareSettings
from adn_jax.config.stream import StreamSettings
from adn_jax.geometry.rigid import Pose, half_extents_mm
from adn_jax.synthesis.atlas import LOW_MM, HeadAtlas
from adn_jax.synthesis.fields import ScanGrid, between, materialise, trilinear
from adn_jax.synthesis.infarct import (
    Infarcts,
    draw_infarcts,
    margins,
    pressure,
    weights,
)
from adn_jax.synthesis.scanner import (
    artefacts,
    brain_mask,
    draw_scanner,
    expose,
    own_sulci,
    slice_jitter,
    slice_mix,
    through_kernel,
    through_slices,
)
from adn_jax.synthesis.shape import HeadShape, ScanPose, draw_pose, draw_shape
from adn_jax.synthesis.tissue import Anatomy, compose, read_atlas
from adn_jax.types import Batch, HeadTruth, Key, register_arrays

# Ranges are arguments of a program, so that it is compiled once for all of them.
register_arrays(StreamSettings)

DARKEST = 1 / 1024
"""Least intensity in the brain, also after brightness and noise: 0 is outside it."""


def draw_heads(
    key: Key,
    numbers: Integer[Array, " b"],
    atlas: HeadAtlas,
    settings: StreamSettings,
    prepare: PrepareSettings,
) -> Batch:
    """Prepared heads with everything known of them, one for each number.

    Args:
        key: randomness of the stream.
        numbers: which heads; the same key and number give the same head, whatever else
            is drawn beside.
        atlas: `load_head_atlas` for the grid's spacing.
        settings: ranges; traced, but for the largest number of infarcts.
        prepare: grid and HU window; static.

    Returns:
        The batch as training takes it, with `truth`; `case` holds the numbers. Numbers
        below 0 give nothing but zeros.
    """

    def draw(number: Integer[Array, ""]) -> Batch:
        own_key = jax.random.fold_in(key, number)
        head = partial(draw_head, own_key, number, atlas, settings, prepare)
        shapes = jax.eval_shape(head)
        # One after the other, and in a branch: so a head is computed by the same
        # program for any number of heads.
        return jax.lax.cond(
            number >= 0,
            head,
            lambda: jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes
            ),
        )

    return replace(jax.lax.map(draw, numbers), case=numbers)


def draw_head(
    key: Key,
    number: Integer[Array, ""],
    atlas: HeadAtlas,
    settings: StreamSettings,
    prepare: PrepareSettings,
) -> Batch:
    """One head, without the axis of the batch."""
    keys = jax.random.split(key, 9)
    grid, real = ScanGrid.of(prepare.shape, prepare.spacing_mm), number >= 0
    pose = draw_pose(keys[0], settings)
    infarcts = draw_infarcts(keys[1], atlas, settings)
    scanner = draw_scanner(keys[2], settings)
    jitter = slice_jitter(keys[3], grid, scanner.ghost, settings)
    form = draw_shape(keys[4], grid, pose, jitter, infarcts, atlas, settings)
    anatomy, soft, hard = _at_voxels(
        keys[5], grid, form, infarcts, atlas, settings, real
    )
    tissue = compose(keys[6], anatomy, infarcts, soft, hard, grid.half_mm, settings)
    hu = tissue.hu - tissue.loss_hu
    hu += artefacts(keys[7], anatomy, grid, scanner, settings)
    hu, tissue = materialise((hu, tissue), real)
    noise_key, mask_key = jax.random.split(keys[8])
    hu = expose(noise_key, hu, grid, scanner, real)
    brain = brain_mask(mask_key, anatomy, pose, grid, settings)
    taken = through_kernel(tissue.loss_hu, scanner, real)
    shown = jnp.stack(tissue._replace(loss_hu=taken).shown())
    seen = through_slices(slice_mix(grid, scanner), shown)
    return _as_batch(number, hu, brain, seen, pose, scanner.gain, prepare)


def _at_voxels(
    key: Key,
    grid: ScanGrid,
    form: HeadShape,
    infarcts: Infarcts,
    atlas: HeadAtlas,
    settings: StreamSettings,
    real: Bool[Array, ""],
) -> tuple[Anatomy, Float[Array, "n z y x"], Float[Array, "n z y x"]]:
    """What is at each voxel, by the form at the knots: anatomy, and each infarct's
    weight and share (`infarct.weights`)."""
    atrophy = form.atrophy - pressure(form.brain, infarcts)
    margin = margins(form.brain, form.wobble, atlas, infarcts)
    fields = jnp.stack([form.regional, form.ageing, form.rim, atrophy])
    fine = grid.refine(jnp.concatenate([form.brain, fields, margin, form.wobble[:1]]))
    points = materialise(fine[:3], real)
    regional, ageing, rim, atrophy = fine[3:7]
    margin, wobble = fine[7:-1], fine[-1]
    sampled = trilinear(atlas.fine, points, LOW_MM, atlas.step_mm)
    sampled = materialise(sampled, real)
    open_key, sulci_key = jax.random.split(key)
    wide = jnp.clip(atrophy, 0.0, 1.0) * jax.random.uniform(open_key)
    sulci = between(wide, settings.sulci) * own_sulci(sulci_key, grid)
    anatomy = read_atlas(points, sampled, atrophy, sulci, regional, ageing, rim)
    # the label's border is about as soft as a voxel
    border_mm = 1.4 * float(grid.half_mm[0]) + 1.0
    soft, hard = weights(points, margin, wobble, infarcts, border_mm)
    return anatomy, soft, hard


def _as_batch(
    number: Integer[Array, ""],
    hu: Float[Array, "z y x"],
    brain: Bool[Array, "z y x"],
    seen: Float[Array, "4 z y x"],
    pose: ScanPose,
    gain: Float[Array, ""],
    prepare: PrepareSettings,
) -> Batch:
    """A head as training takes it; `seen` is `Tissue.shown` through the slices."""
    low, high = prepare.window_hu
    volume = jnp.clip((hu - low) / (high - low), DARKEST, 1.0)
    lesion, loss, grey, white = jnp.where(brain, seen, 0.0)[..., None]
    csf = jnp.where(brain[..., None], 1 - grey - white, 0.0)
    maps = jnp.concatenate([grey, white, csf], axis=-1)
    angle, (x, y) = pose.mirror_line()
    half = half_extents_mm(prepare.shape, prepare.spacing_mm)
    return Batch(
        volume=jnp.where(brain, volume, 0.0)[..., None],
        lesion=lesion,
        tissue=jnp.where(brain, 1 + maps.argmax(-1), 0).astype(jnp.uint8),
        case=number,
        truth=HeadTruth(
            pathological=gain * loss / (high - low),
            tissue=maps,
            pose=Pose.in_plane(angle, x / half[0], y / half[1]),
            head_to_world=pose.matrix(),
        ),
    )
