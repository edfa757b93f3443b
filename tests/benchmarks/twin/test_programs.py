"""Every call of the peer that a CPU can make runs, and refuses what it lacks."""

from dataclasses import replace

import pytest

from adn_jax.benchmarks.twin import make_twin
from adn_jax.config import UNetSettings
from tests.benchmarks.twin.ours import RECIPE

torch = pytest.importorskip("torch")
from adn_jax.benchmarks.twin import programs  # noqa: E402

NET = UNetSettings(widths=(2, 4), groups=2)
DEEP = replace(
    RECIPE,
    tissue_source="network",
    disentangle_net=NET,
    segment_net=replace(NET, kind="unet"),
)


@pytest.fixture
def results(monkeypatch):
    """What the calls compute, kept from `make_twin`'s answer, which gives nothing."""
    kept, finished = [], programs.finished

    def keep(call, device, form):
        return finished(lambda: kept.append(call()), device, form)

    monkeypatch.setattr(programs, "finished", keep)
    return kept


@pytest.mark.parametrize("form", ["eager", "bf16"])
def test_training_lowers_the_loss(results, form):
    for what in ("align", "joint"):
        call = make_twin(what, DEEP, 2, "cpu", form)
        for _ in range(2):
            call()
        assert all(torch.isfinite(v["loss"]) for v in results)


def test_bf16_inference_is_close_to_float32(results):
    for form in ("eager", "bf16"):
        make_twin("inference", DEEP, 2, "cpu", form)()
    exact, rounded = results
    assert exact.shape == (2, 1, *DEEP.prepare.shape)
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.05
