"""What the tests of compiled programs share."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import config


@pytest.fixture(autouse=True, scope="module")
def compiled_anew():
    """Nothing is read from the tests' common cache: what is compiled is measured."""
    folder = jax.config.jax_compilation_cache_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAX_COMPILATION_CACHE_DIR")
        use_cache(None)
        yield
        use_cache(folder)


def use_cache(folder):
    """Read and write compiled programs there from now on."""
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


@pytest.fixture
def unchecked_annotations(monkeypatch):
    """jax's lowering fills records with its own objects, which annotations refuse."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)
