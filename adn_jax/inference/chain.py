"""One prepared case through the jitted chain, its maps brought back as NumPy arrays."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from adn_jax.config import Recipe, SystemSettings
from adn_jax.data.cases import PreparedCase
from adn_jax.geometry.rigid import half_extents_mm, mid_plane
from adn_jax.geometry.sampler import sample
from adn_jax.inference.maps import CaseMaps, Map
from adn_jax.inference.midline import Fit, judge_midline
from adn_jax.metrics.alignment import Plane
from adn_jax.metrics.disentanglement import PATHOLOGY_THRESHOLD
from adn_jax.metrics.overlap import Mask
from adn_jax.pipeline.adn import apply_adn, init_adn, realign_labels, unalign
from adn_jax.pipeline.align import (
    MidlineFit,
    aligns,
    first_view,
    is_in_plane,
    matrices,
    midline_fit,
)
from adn_jax.pipeline.tta import averaged_prediction, further_poses
from adn_jax.runtime.capacity import compile_to_fit
from adn_jax.runtime.platform import check_cudnn, return_freed_memory
from adn_jax.types import AdnOutputs, AdnParams, Matrix, Volume

CHAIN_MAPS = (
    "prediction",
    "aligned",
    "asymmetry",
    "pathological",
    "anatomical",
    "salient",
    "compensated",
    "aligned_prediction",
)
"""Those of `AdnOutputs` that `CaseMaps` has too."""

Inference = tuple[AdnOutputs, Matrix, MidlineFit | None]
"""The chain's outputs, M before the search and the refinement, and how well the
mid-line is known (None where none is sought)."""


@partial(jax.jit, static_argnames="system")
def infer(params: AdnParams, volume: Volume, system: SystemSettings) -> Inference:
    """The whole chain for a batch, and what is known about its mid-lines."""
    first = matrices(first_view(params.view, volume, system), system)[0]
    outputs = apply_adn(params, volume, system)
    fit = midline_fit(volume, outputs.view, system) if aligns(system) else None
    return outputs, first, fit


@cache
def compiled_chain(system: SystemSettings) -> Callable[[AdnParams, Volume], Inference]:
    """The chain for one scan, compiled once; the memory that this took is given back.

    On a CPU that is half a gigabyte, which would lie beside the chain's own memory.
    Raises `MemoryShortageError` where the chain needs more than there is.
    """
    check_cudnn(system.precision)
    program = compile_to_fit(
        infer.lower(*abstract_inputs(system), system),
        f"a scan on the grid {' x '.join(map(str, system.prepare.shape))}",
        advice=lambda *_: "end other programs, or take a machine with more memory",
    )
    return_freed_memory()
    return program


def abstract_inputs(system: SystemSettings) -> tuple[AdnParams, jax.ShapeDtypeStruct]:
    """Shapes of the parameters and of one scan."""
    params = jax.eval_shape(partial(init_adn, system=system), jax.random.key(0))
    return params, jax.ShapeDtypeStruct((1, *system.prepare.shape, 1), jnp.float32)


@partial(jax.jit, static_argnames="system")
def on_scan_grid(outputs: AdnOutputs, system: SystemSettings) -> dict[str, Volume]:
    """A, P, Q and what X_hat and X_tilde add to X, taken back to I's grid.

    A alone where the system has no D.
    """
    maps = {"asymmetry": outputs.asymmetry}
    parts = {"pathological": outputs.pathological, "anatomical": outputs.anatomical}
    maps |= {name: part for name, part in parts.items() if part is not None}
    sums = {
        "salient_change": outputs.salient,
        "compensated_change": outputs.compensated,
    }
    maps |= {
        name: whole - outputs.aligned
        for name, whole in sums.items()
        if whole is not None
    }
    stacked = jnp.concatenate(list(maps.values()), axis=-1)
    moved = unalign(stacked, outputs.inverse, system)
    return dict(zip(maps, jnp.split(moved, len(maps), axis=-1), strict=True))


@partial(jax.jit, static_argnames="system")
def _align_truth(
    lesion: Volume, darkening: Volume, matrix: Matrix, system: SystemSettings
) -> tuple[Volume, Volume]:
    """Label (nearest neighbours) and true darkening (linear) on X's grid."""
    moved = onto_aligned(darkening, matrix, system)
    return realign_labels(lesion, matrix, system), moved


@partial(jax.jit, static_argnames="system")
def onto_aligned(volume: Volume, matrix: Matrix, system: SystemSettings) -> Volume:
    """A map of I's grid on X's (linear)."""
    if not aligns(system):
        return volume
    return sample(volume, matrix, in_plane=is_in_plane(system))


def as_batch(volume: np.ndarray) -> Float[Array, "1 z y x 1"]:
    """One volume as a batch of one with one channel."""
    return jnp.asarray(np.asarray(volume, np.float32)[None, ..., None])


def as_map(volume: Volume) -> Map:
    """The first volume of a batch as NumPy."""
    return np.asarray(volume[0, ..., 0])


def infer_case(
    params: AdnParams, case: PreparedCase, recipe: Recipe
) -> tuple[CaseMaps, AdnOutputs]:
    """Run one case; the maps as NumPy, and the outputs still on the device.

    Where the recipe averages over poses, so are the predictions among the maps. The
    outputs are those of the scan as it lies.
    """
    volume = as_batch(case.volume)
    outputs, first_matrix, fit = compiled_chain(recipe.system)(params, volume)
    found: dict[str, Any] = {
        **(_present_maps(outputs) | _averaged_maps(params, volume, outputs, recipe)),
        **midline(outputs.matrix, first_matrix, fit, case, recipe.system),
        **_truth_maps(case, outputs.matrix, recipe.system),
    }
    maps = CaseMaps(
        name=case.name,
        spacing_mm=case.spacing_mm,
        window_hu=recipe.system.prepare.window_hu,
        threshold=recipe.threshold,
        volume=np.asarray(case.volume),
        **found,
    )
    return maps, outputs


def run_chain(params: AdnParams, volume: Volume, system: SystemSettings) -> Volume:
    """O of one scan as it lies."""
    outputs, _, _ = compiled_chain(system)(params, volume)
    return outputs.prediction


def _averaged_maps(
    params: AdnParams, volume: Volume, outputs: AdnOutputs, recipe: Recipe
) -> dict[str, Map]:
    """O averaged over poses, also on X's grid; nothing where the recipe takes one."""
    if not further_poses(recipe.tta):
        return {}
    mean = averaged_prediction(
        params,
        volume,
        recipe.system,
        recipe.tta,
        predict=run_chain,
        first=outputs.prediction,
    )
    aligned = onto_aligned(mean, outputs.matrix, recipe.system)
    return {"prediction": as_map(mean), "aligned_prediction": as_map(aligned)}


def _present_maps(outputs: AdnOutputs) -> dict[str, Map]:
    """The maps of the chain that the system has, by name."""
    volumes = {name: getattr(outputs, name) for name in CHAIN_MAPS}
    return {
        name: as_map(volume) for name, volume in volumes.items() if volume is not None
    }


def midline(
    matrix: Matrix,
    first: Matrix,
    fit: MidlineFit | None,
    case: PreparedCase,
    system: SystemSettings,
) -> dict[str, Any]:
    """The mid-sagittal plane at the end and after T alone, and what is known of it;
    nothing where none is looked for."""
    if fit is None:
        return {}
    plane = _plane_in_scan(matrix, system)
    known = Fit(*(float(getattr(fit, name)[0]) for name in Fit._fields))
    judged = judge_midline(plane, known, case.affine)
    return {
        "plane": plane if judged.found else None,
        "first_plane": _plane_in_scan(first, system) if judged.found else None,
        "midline_missed": not judged.found,
        "knows_sides": judged.knows_sides,
        "midline_flags": judged.flags,
    }


def _truth_maps(
    case: PreparedCase, matrix: Matrix, system: SystemSettings
) -> dict[str, Mask | None]:
    """The label and, for phantoms, the truly pathological voxels, as far as known."""
    if case.lesion is None:
        return {}
    nothing = np.zeros(case.volume.shape, np.float32)
    darkening = nothing if case.pathological is None else case.pathological
    lesion, moved = _align_truth(
        as_batch(case.lesion), as_batch(darkening), matrix, system
    )
    known = case.pathological is not None
    return {
        "lesion": np.asarray(case.lesion) >= 0.5,
        "aligned_lesion": as_map(lesion) >= 0.5,
        "aligned_truth": as_map(moved) > PATHOLOGY_THRESHOLD if known else None,
    }


def _plane_in_scan(matrix: Matrix, system: SystemSettings) -> Plane:
    """The mid-sagittal plane of a view in mm of I's grid, from its centre."""
    extents = half_extents_mm(system.prepare.shape, system.prepare.spacing_mm)
    normal, point = mid_plane(matrix, extents)
    return Plane(np.asarray(normal[0], float), np.asarray(point[0], float))
