"""Passes over every case of a split: validation, and the coarse search."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding
from rich.progress import track

from adn_jax.config import Recipe
from adn_jax.data.batches import Split, check_present, epoch_batches
from adn_jax.distributed.mesh import place_cases, replicated
from adn_jax.pipeline.align import search_view
from adn_jax.training.stages import Stage
from adn_jax.types import Batch, Params, View

Validate = Callable[[Params], dict[str, float]]
"""Parameters -> mean of every value over the validation split."""


def make_validation(
    stage: Stage,
    frozen: Any,
    split: Split,
    place: Callable[[np.ndarray], jax.Array],
    sharding: Sharding,
) -> Validate:
    """A function from parameters to the mean of every value over the split."""

    def evaluate_cases(
        params: Params, frozen: Any, batch: Batch
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        return batch.case, stage.evaluate(params, frozen, batch)

    evaluate = jax.jit(evaluate_cases, out_shardings=sharding)

    def validate(params: Params) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for batch, count in epoch_batches(split, stage.settings.batch, place):
            case, values = jax.device_get(evaluate(params, frozen, batch))
            check_present(case, split)
            for name, per_case in values.items():
                found.setdefault(name, []).extend(per_case[:count].tolist())
        return {name: math.fsum(each) / len(each) for name, each in found.items()}

    return validate


def search_table(recipe: Recipe, split: Split, batch: int, mesh: Mesh) -> jax.Array:
    """Answer of the coarse search for every case of a split, by index in the data set.

    It looks as far as T can turn.
    """
    limit = recipe.system.alignment_net.rotation_limit_deg[2]

    def search_cases(batch: Batch) -> tuple[jax.Array, View]:
        return batch.case, search_view(batch.volume, recipe.system, limit_deg=limit)

    search = jax.jit(search_cases, out_shardings=replicated(mesh))
    table = np.zeros((len(split.manifest.cases), 6), np.float32)
    batches = epoch_batches(split, batch, partial(place_cases, mesh=mesh))
    total = math.ceil(len(split) / batch)
    for cases, count in track(batches, "search", total, transient=True):
        case, view = jax.device_get(search(cases))
        check_present(case, split)
        table[case[:count]] = view[:count]
    return jnp.asarray(table)
