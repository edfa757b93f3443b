"""Every call of the peer that a CPU can make runs, and refuses what it lacks."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from adn_jax.config import UNetSettings
from adn_jax.errors import UserError
from tests.benchmarks.torch_reference.ours import RECIPE

torch = pytest.importorskip("torch")
from benchmarks.torch_reference import programs  # noqa: E402

NET = UNetSettings(widths=(2, 4), groups=2)


# In bfloat16 on a CPU PyTorch 2.13's gradients of kernels are other ones at each call,
# now and then no numbers, where the rows of a map have 6 voxels; with 8 they are right.
TINY = RECIPE.with_fields(
    tissue_source="network",
    prepare=replace(RECIPE.system.prepare, shape=(8, 16, 16)),
    disentangle_net=NET,
    segment_net=replace(NET, kind="unet"),
)


@pytest.fixture
def results(monkeypatch):
    """What the calls compute; `make_program`'s answer gives nothing."""
    kept, finished = [], programs.finished

    def keep(call, device, form):
        return finished(lambda: kept.append(call()), device, form)

    monkeypatch.setattr(programs, "finished", keep)
    return kept


@pytest.mark.parametrize("form", ["eager", "bf16"])
@pytest.mark.parametrize("what", ["align", "joint"])
def test_every_step_moves_the_loss(results, what, form):
    call = programs.make_program(what, TINY, 2, "cpu", form)
    call()
    assert call() is None
    first, second = (values["loss"] for values in results)
    assert torch.isfinite(first)
    assert first != second


def test_bf16_inference_is_close_to_float32(results):
    for form in ("eager", "bf16"):
        programs.make_program("inference", TINY, 2, "cpu", form)()
    exact, rounded = results
    assert exact.shape == (2, 1, *TINY.system.prepare.shape)
    assert rounded.dtype == torch.float32
    difference = (exact - rounded).abs()
    assert difference.mean() < 0.01
    assert 0 < difference.max() < 0.1


TRACED = """
import torch
from benchmarks.torch_reference import programs
from tests.benchmarks.torch_reference.test_programs import TINY

def trace(network):
    network.forward = torch.compile(
        network.forward, backend="aot_eager", fullgraph=True)

results = []
torch.nn.Module.compile = trace
programs.finished = lambda call, device, form: lambda: results.append(call())
for form in ("eager", "compiled"):
    programs.make_program("inference", TINY, 1, "cpu", form)()
torch.testing.assert_close(*results)
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


def test_each_network_compiles_as_one_graph():
    """In a process of its own: torch cannot trace what the tests' type checker adds."""
    assert run_python(TRACED) == "3"


def test_failed_compilation_is_one_sentence(monkeypatch):
    def fail(network):
        network.forward = no_compiler

    monkeypatch.setattr(torch.nn.Module, "compile", fail)
    call = programs.make_program("inference", TINY, 1, "cpu", "compiled")
    with pytest.raises(UserError, match=r"does not work here \(no C\+\+.*leave"):
        call()


def no_compiler(*_):
    raise RuntimeError("no C++ compiler\nwas found.")


@pytest.mark.parametrize("option", ["in_plane_levels", "deep_supervision"])
@pytest.mark.parametrize("network", ["disentangle_net", "segment_net", "tissue_net"])
def test_options_of_levels_are_refused(network, option):
    owner = TINY if network == "tissue_net" else TINY.system
    net = replace(getattr(owner, network), **{option: 1})
    with pytest.raises(UserError, match=rf"no {option}, but {network}\.{option} is 1;"):
        programs.make_program(
            "joint", TINY.with_fields(**{network: net}), 1, "cpu", "eager"
        )


@pytest.mark.parametrize("stage", ["align", "joint"])
@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        *(
            ("augment", {name: 0.1}, rf"no {name}, but STAGE\.augment\.{name} is 0.1;")
            for name in ("zoom", "brightness", "noise")
        ),
        (
            "optimizer",
            {"ema_decay": 0.9},
            r"no ema_decay, but STAGE\.optimizer\.ema_decay is",
        ),
        (
            "optimizer",
            {"kind": "rmsprop"},
            r"AdamW alone, but STAGE\.optimizer\.kind is",
        ),
    ],
)
def test_what_the_trainer_lacks_is_refused(stage, part, changes, sentence):
    settings = getattr(TINY, stage)
    settings = replace(settings, **{part: replace(getattr(settings, part), **changes)})
    with pytest.raises(UserError, match=sentence.replace("STAGE", stage)):
        programs.make_program(
            stage, TINY.with_fields(**{stage: settings}), 1, "cpu", "eager"
        )


def test_an_unknown_form_is_refused():
    with pytest.raises(UserError, match="no form 'fast'; take eager, bf16, compiled"):
        programs.make_program("joint", TINY, 1, "cpu", "fast")


def test_the_peer_runs_without_jax():
    """In a process that has jax, too, memory would not be the peer's own."""
    modules = "sys, adn_jax.benchmarks.worker, benchmarks.torch_reference.programs"
    program = f"import {modules}; print('jax' in sys.modules)"
    assert run_python(program) == "False"


def run_python(program):
    run = [sys.executable, "-c", program]
    folder = Path(__file__).parents[3]
    return subprocess.check_output(run, text=True, cwd=folder).strip()
