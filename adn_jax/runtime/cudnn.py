"""Versions of cuDNN whose bfloat16 3D convolutions are wrong or slow are refused."""

import os
from importlib import metadata

import jax

from adn_jax.config import Precision
from adn_jax.errors import UserError

LEAST = (9, 15)
"""First version without wrong results on large volumes (pytorch#163539, 9.10) and
without the four times slower convolutions (pytorch#166643) of its forerunners."""

OVERRIDE = "ADN_ANY_CUDNN"
"""Variable of the environment that allows every version."""


def check_cudnn(precision: Precision) -> None:
    """Raise `UserError` where bfloat16 would run on too old a cuDNN."""
    if precision != "bfloat16" or OVERRIDE in os.environ:
        return
    if jax.default_backend() != "gpu":
        return
    for package, version in installed_cudnn().items():
        if tuple(map(int, version.split(".")[:2])) < LEAST:
            wanted = ".".join(map(str, LEAST))
            raise UserError(
                f"{package} {version} is installed; below {wanted} its 3D convolutions "
                "in bfloat16 are wrong on large volumes, or slow: pip install "
                f"'{package}>={wanted}', or set --precision float32, or {OVERRIDE}=1 "
                "in the environment to go on as it is."
            )


def installed_cudnn() -> dict[str, str]:
    """The cuDNN package that jax's CUDA plugin loads, with its version, if any."""
    found = {}
    for cuda in ("cu12", "cu13"):
        try:
            metadata.version(f"jax-cuda{cuda[2:]}-plugin")
            package = f"nvidia-cudnn-{cuda}"
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
