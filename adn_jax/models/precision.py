"""Number types of the networks: those of maps, of products and of sums.

Sums over voxels stay in float32 whatever the type of the maps: bfloat16 has 8 bits, so
a sum of more than some hundred like numbers no longer grows.
"""

from contextlib import AbstractContextManager
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from adn_jax.config import Precision
from adn_jax.types import Volume

PRODUCTS = {"float32": "highest", "tensorfloat32": "high", "bfloat16": "default"}
"""What jax calls the products of each precision. "high" is TF32 on a GPU and three
products of bfloat16 on a TPU; operands in bfloat16 are exact in all of them."""


def map_type(precision: Precision) -> DTypeLike:
    """The type of feature maps."""
    return jnp.bfloat16 if precision == "bfloat16" else jnp.float32


def multiplying(precision: Precision) -> AbstractContextManager:
    """Within it, what is traced multiplies as `precision` says."""
    return jax.default_matmul_precision(PRODUCTS[precision])


def products_in_use() -> str | None:
    """How what is traced now multiplies, for a gradient that is traced later."""
    # jax makes its settings attributes when it is imported
    return jax.config.jax_default_matmul_precision  # ty: ignore[missing-attribute]


@jax.custom_vjp
def add_to_channels(maps: Volume, bias: Float32[Array, " c"]) -> Volume:
    """maps + bias in the type of the maps; the bias's gradient is summed in float32."""
    return maps + bias.astype(maps.dtype)


def _add_forward(maps, bias):
    return add_to_channels(maps, bias), None


def _add_backward(_, cotangent):
    return cotangent, cotangent.astype(jnp.float32).sum((0, 1, 2, 3))


add_to_channels.defvjp(_add_forward, _add_backward)


def project(maps: Volume, kernel: Float32[Array, "c o"]) -> Float[Array, "b z y x o"]:
    """maps @ kernel in the type of the maps; the kernel's gradient is float32."""
    return _project(maps, kernel, products_in_use())


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _project(maps, kernel, products):
    with jax.default_matmul_precision(products):
        return jnp.matmul(maps, kernel.astype(maps.dtype))


def _project_forward(maps, kernel, products):
    return _project(maps, kernel, products), (maps, kernel)


def _project_backward(products, inputs, cotangent):
    maps, kernel = inputs
    rows, channels = (each.reshape(-1, each.shape[-1]) for each in (maps, cotangent))
    with jax.default_matmul_precision(products):
        by_maps = jnp.matmul(cotangent, kernel.astype(maps.dtype).T)
        by_kernel = jnp.matmul(rows.T, channels, preferred_element_type=kernel.dtype)
    return by_maps, by_kernel


_project.defvjp(_project_forward, _project_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def repeat(maps: Volume, times: tuple[int, int, int]) -> Float[Array, "b z2 y2 x2 c"]:
    """Repeat each voxel along z, y and x; its gradient is summed in float32."""
    for axis, count in enumerate(times, start=1):
        maps = jnp.repeat(maps, count, axis=axis) if count > 1 else maps
    return maps


def _repeat_forward(maps, times):
    return repeat(maps, times), None


def _repeat_backward(times, _, cotangent):
    total = cotangent.astype(jnp.float32)
    for axis, count in reversed(list(enumerate(times, start=1))):
        before, after = total.shape[:axis], total.shape[axis + 1 :]
        if count > 1:
            total = total.reshape(*before, -1, count, *after).sum(axis + 1)
    return (total.astype(cotangent.dtype),)


repeat.defvjp(_repeat_forward, _repeat_backward)
