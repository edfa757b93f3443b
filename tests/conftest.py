"""Strict numbers for every test, several simulated devices, and the shared data."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import jax
import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the development data (golden values, a real scan, an atlas)."""
    if not SHARED.is_dir():
        pytest.skip(f"the development data folder {SHARED} is absent")
    return SHARED


STRICT_FOLDERS = {"geometry", "losses", "models"}
"""Our own arithmetic; optax, which the rest calls, needs ordinary promotion."""


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """Implicit changes of dtype are errors in the numerical folders."""
    strict = request.path.parent.name in STRICT_FOLDERS
    with jax.numpy_dtype_promotion("strict" if strict else "standard"):
        yield
