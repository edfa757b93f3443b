"""Which cuDNN is refused, with stand-ins for the packages and the GPU."""

from importlib import metadata

import jax
import pytest

from adn_jax.errors import UserError
from adn_jax.runtime import platform as cudnn


@pytest.fixture
def install(monkeypatch):
    """Pretend that a GPU is there, and these packages alone are installed."""

    def pretend(backend: str = "gpu", **packages: str):
        known = {name.replace("_", "-"): text for name, text in packages.items()}

        def version(name: str) -> str:
            if name not in known:
                raise metadata.PackageNotFoundError(name)
            return known[name]

        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.delenv(cudnn.CUDNN_OVERRIDE, raising=False)

    return pretend


OLD = {"jax_cuda13_plugin": "0.10.2", "nvidia_cudnn_cu13": "9.10.2.21"}


def test_an_old_one_is_refused_and_the_way_out_named(install):
    install(**OLD)
    with pytest.raises(UserError, match=r"cudnn-cu13 9\.10\.2\.21 .*cu13>=9\.15'.*ANY"):
        cudnn.check_cudnn("bfloat16")


def test_float32_and_another_backend_do_not_care(install):
    install(**OLD)
    cudnn.check_cudnn("float32")
    install("cpu", **OLD)
    cudnn.check_cudnn("bfloat16")


def test_the_user_may_go_on(install, monkeypatch):
    install(**OLD)
    monkeypatch.setenv(cudnn.CUDNN_OVERRIDE, "1")
    cudnn.check_cudnn("bfloat16")


@pytest.mark.parametrize("version", ["9.15.0.57", "9.20.0.1", "10.0.0.0"])
def test_newer_ones_pass(install, version):
    install(**OLD | {"nvidia_cudnn_cu13": version})
    cudnn.check_cudnn("bfloat16")


def test_the_package_of_another_cuda_does_not_matter(install):
    """PyTorch, for instance, may have brought one."""
    install(**OLD, nvidia_cudnn_cu12="9.1.0.70")
    assert cudnn.installed_cudnn() == {"nvidia-cudnn-cu13": "9.10.2.21"}


def test_without_a_package_nothing_is_known(install):
    install()
    cudnn.check_cudnn("bfloat16")
