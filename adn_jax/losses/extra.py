"""Loss terms of the user's own, named on the command line (docs/loss-variants.md)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from adn_jax.errors import UserError, one_line
from adn_jax.runtime.named import named_function


@dataclass(frozen=True)
class ExtraTerm:
    """A term found by name, and its weight in the total loss."""

    name: str
    function: Callable[..., Any]
    weight: float

    def __call__(self, *inputs: Any) -> Float[Array, ""]:
        """Value of the term; `UserError` where it fails or is not one number."""
        try:
            value = self.function(*inputs)
        except Exception as error:
            raise UserError(
                f"the loss term {self.name} failed with {type(error).__name__}: "
                f"{one_line(error)}; correct it (in a system without D, P and what "
                "follows from it are None)."
            ) from error
        if not isinstance(value, float | jax.Array) or jnp.shape(value) != ():
            raise UserError(
                f"the loss term {self.name} gives {_describe(value)}; one number is "
                "wanted, so take a mean or a sum."
            )
        return jnp.asarray(value, jnp.float32)


@cache
def resolve_term(text: str) -> ExtraTerm:
    """Import the function of `module:function` or `module:function:weight`.

    The weight is 1 where none is given. Raises `UserError` where the text has another
    form, or the module or function cannot be had.
    """
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise UserError(
            f"the loss term {text!r} has another form than module:function or "
            "module:function:weight; write for example my_terms:boundary_charge:0.5."
        )
    module, function = parts[:2]
    weight = _weight(text, parts[2]) if len(parts) == 3 else 1.0
    found = named_function(module, function, "loss term")
    return ExtraTerm(f"{module}:{function}", found, weight)


def _weight(text: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UserError(
            f"the loss term {text!r} has the weight {number!r}; a number is wanted."
        )
    return weight


def _describe(value: Any) -> str:
    if isinstance(value, jax.Array):
        return f"an array of shape {value.shape}"
    return f"a {type(value).__name__}"
