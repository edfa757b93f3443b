"""Profiles of a step that nothing beside it held up."""

from collections.abc import Callable

from adn_jax.benchmarks.budget import Budget

ATTEMPTS = 50


def undisturbed(measure: Callable[[], Budget], least: float) -> Budget:
    """The first budget that explains so much of its step, or the last of many.

    A program beside it makes a step's clock run on while none of its operations does.
    """
    for _ in range(ATTEMPTS):
        budget = measure()
        if budget.coverage >= least:
            break
    return budget
