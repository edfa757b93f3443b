"""Strict numbers for every test, several simulated devices, and the shared data."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the development data (golden values, a real scan, an atlas)."""
    if not SHARED.is_dir():
        pytest.skip(f"the development data folder {SHARED} is absent")
    return SHARED
