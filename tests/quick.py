"""What XLA is told where a program runs once or twice: compile soon, run slowly.

Not where a golden value is met to its last digits.
"""

from functools import partial

import jax

OPTIONS: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # later ones have no other emitters
    OPTIONS["xla_cpu_use_fusion_emitters"] = False

FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())
"""The same for XLA_FLAGS of a child process."""

jit_quickly = partial(jax.jit, compiler_options=OPTIONS)
"""Compiles a step of two networks in a third of the time."""
