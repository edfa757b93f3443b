"""What the tests of compiled programs share."""

import pytest
from jaxtyping import config


@pytest.fixture
def unchecked_annotations(monkeypatch):
    """jax's lowering fills records with its own objects, which annotations refuse."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)
