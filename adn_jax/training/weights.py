"""Weights of a finished run in one small file, in half precision."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from adn_jax.errors import UserError
from adn_jax.io.files import atomic_path
from adn_jax.io.paths import Place, read_bytes
from adn_jax.types import Params

UNREADABLE = (ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What NumPy and zipfile raise of a file that was cut short or changed."""


def write_weights(path: Place, stages: Mapping[str, Params]) -> None:
    """Write the parameters of every stage to one NPZ file, whole or not at all.

    Arrays are named by their paths, `joint/segment/...`, and stored in float16, which
    is off by 1/2048 of a value at most, or by 3e-8 where that is more (below 6e-5).

    Raises `UserError` if a value does not fit float16.
    """
    arrays = {}
    for stage, params in stages.items():
        for name, leaf in _named(stage, params).items():
            value = np.asarray(leaf)
            if not (abs(value) <= np.finfo(np.float16).max).all():
                raise UserError(
                    f"the weight {name} has values that half precision cannot hold; "
                    "keep the run itself."
                )
            arrays[name] = value.astype(np.float16)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_weights(path: Place, stage: str, like: Params) -> Params:
    """The parameters of a stage, in the shapes and types of `like`.

    Raises `UserError` if they are missing, damaged or of another architecture.
    """
    advice = "restore the file or take another model"
    try:
        with np.load(io.BytesIO(read_bytes(path))) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except UNREADABLE as error:
        raise UserError(f"{path} holds no readable weights; {advice}.") from error
    wanted = _named(stage, like)
    for name, leaf in wanted.items():
        shape = found[name].shape if name in found else "no such array"
        if shape != leaf.shape:
            raise UserError(
                f"{path} has {shape} for {name}, and the recipe beside it wants "
                f"{leaf.shape}; {advice}."
            )
    leaves = [found[name].astype(leaf.dtype) for name, leaf in wanted.items()]
    tree = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return jax.device_put(tree, jax.local_devices()[0])


def _named(stage: str, params: Params) -> dict[str, Any]:
    """The leaves of a stage's parameters by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {
        f"{stage}/{jax.tree_util.keystr(path, simple=True, separator='/')}": leaf
        for path, leaf in leaves
    }
