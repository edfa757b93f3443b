"""An exported chain gives what the run gives, where this package is not."""

import json
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax import export
from scipy import ndimage

from adn_jax.cli.main import main
from adn_jax.data.cases import read_case
from adn_jax.data.known_heads import KnownHeads
from adn_jax.data.known_lesions import KnownLesions
from adn_jax.errors import UserError
from adn_jax.inference import export as module
from adn_jax.inference.export import MEANINGS, chain_maps, export_model, find_lesions
from adn_jax.inference.system import infer_case, load_system
from adn_jax.training.runs import Run, load_run, write_small_run
from tests.training.tiny import write_heads

LOAD = """
import sys
import jax
import numpy as np
from jax import export

model, volumes, out = sys.argv[1:]
with open(model, "rb") as file:
    program = export.deserialize(bytearray(file.read()))
for count in (1, 3):
    found = program.call(np.load(volumes)[:count])
    np.savez(f"{out}{count}.npz", **{name: one for name, one in found.items()})
assert not any(name.startswith("adn_jax") for name in sys.modules)
"""


@pytest.fixture
def cases(tiny_data):
    """Two heads that are larger than the box below, and the inside of another."""
    *large, case = (
        read_case(tiny_data / one) for one in ("turned", "upright", "tilted")
    )
    inside = np.zeros_like(case.volume)
    inside[:, 16:32, 14:26] = 1
    return [*large, replace(case, volume=case.volume * inside)]


@pytest.fixture
def boxed_run(tiny_recipe, write_tiny_run):
    return write_tiny_run("boxed", tiny_recipe.with_fields(box=(8, 32, 24)))


def run_elsewhere(model, cases, folder):
    """Outputs of one case and of three, by a Python that sees no more than packages."""
    volumes = folder / "volumes.npy"
    np.save(volumes, np.stack([case.volume for case in cases]))
    command = [sys.executable, "-I", "-c", LOAD, str(model), str(volumes)]
    subprocess.run([*command, str(folder / "found")], check=True, cwd=folder)
    return [np.load(folder / f"found{count}.npz") for count in (1, 3)]


@pytest.mark.slow
def test_the_chain_is_the_same_without_this_package(boxed_run, cases, tmp_path, capsys):
    main(["export-model", str(boxed_run), str(tmp_path / "out")])
    path = tmp_path / "out" / "model.stablehlo"
    assert f"{path} (" in capsys.readouterr().out
    alone, together = run_elsewhere(path, cases, tmp_path)
    model = load_run(boxed_run)
    flagged = []
    described = json.loads((tmp_path / "out" / "model.json").read_text())
    program = export.deserialize(bytearray(path.read_bytes()))
    assert described["platforms"] == list(program.platforms) == ["cpu", "cuda", "tpu"]
    assert set(described["outputs"]) == set(together) == set(MEANINGS)
    for place, case in enumerate(cases):
        maps, outputs = infer_case(model.params, case, model.recipe)
        flagged.append(outputs.alignment.box is None)
        for name, one in described["outputs"].items():
            found = together[name]
            assert one["shape"] == ["b", *found.shape[1:]]
            wanted = (
                outputs.alignment.matrix[0] if name == "matrix" else getattr(maps, name)
            )
            np.testing.assert_allclose(found[place], wanted, rtol=0, atol=1e-5)
            if place == 0:
                np.testing.assert_allclose(alone[name][0], wanted, rtol=0, atol=1e-5)
    assert flagged == [True, True, False]


def test_a_system_without_d_has_no_maps_of_it(plain_recipe, tiny_params, cases):
    volume = jax.ShapeDtypeStruct((1, *cases[0].volume.shape), "float32")
    maps, _ = jax.eval_shape(
        lambda one: chain_maps(tiny_params, one, plain_recipe.system), volume
    )
    assert set(MEANINGS) - set(maps) == {"pathological", "anatomical"}


def test_what_cannot_be_exported_is_one_sentence(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "model.json").write_text("{}")
    (tmp_path / "notes" / "group1-shard1of1.bin").write_bytes(b"of another tool")
    with pytest.raises(UserError, match=r"holds group1-shard1of1\.bin, not"):
        export_model(tiny_run, tmp_path / "notes")
    with pytest.raises(UserError, match="is no run"):
        export_model(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(UserError, match="take --format weights, or leave --heads out"):
        export_model(tiny_run, tmp_path / "out", heads=tmp_path)
    for form, platforms, message in (
        ("onnx", ("cpu",), "but onnx is written for none; leave --platforms out"),
        ("weights", ("cpu",), "but weights is written for none"),
        ("stablehlo", (), "platforms are none at all; name one or more, each once"),
        ("stablehlo", ("cpu", "cpu"), "platforms are cpu, cpu; name one or more"),
    ):
        with pytest.raises(UserError, match=message):
            export_model(tiny_run, tmp_path / "out", form, platforms)
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs flatbuffers.*'adn-jax\[export\]'"):
        export_model(tiny_run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_are_a_small_run(tiny_run, tmp_path, capsys):
    out = tmp_path / "small"
    main(["export-model", str(tiny_run), str(out), "--format", "weights"])
    assert str(out / "weights.npz") in capsys.readouterr().out
    whole, small = load_run(tiny_run), load_run(out)
    assert small.recipe == whole.recipe
    for one, other in zip(
        jax.tree.leaves(small.params), jax.tree.leaves(whole.params), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=2**-11, atol=1e-7)
    with pytest.raises(UserError, match="choose a new one"):
        export_model(tiny_run, out, "weights")


def test_weights_of_another_checkpoint_can_be_taken(tiny_run, tmp_path):
    run = Run.open(tiny_run)
    kept, best = run.kept_steps("joint"), run.finished["joint"]["best_step"]
    assert best in kept
    given = {step: run.at_step(step).params("joint") for step in kept}
    for step, params in given.items():
        out = tmp_path / str(step)
        command = ["export-model", str(tiny_run), str(out), "--format", "weights"]
        main([*command, "--step", str(step)])
        small = Run.open(out)
        assert small.finished["joint"]["best_step"] == step
        for one, other in zip(
            jax.tree.leaves(small.params("joint")), jax.tree.leaves(params), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=2**-11, atol=1e-7)
    assert Run.open(tiny_run).finished == run.finished
    with pytest.raises(UserError, match=r"keeps no weights of step 12345 .*; name one"):
        export_model(tiny_run, tmp_path / "none", "weights", step=12345)
    assert not (tmp_path / "none").exists()


def test_a_small_run_of_a_small_run_tells_what_that_does(tiny_run, tmp_path):
    heads = KnownHeads(3, {"volume_ml": (900.0, 1900.0)})
    lesions = KnownLesions(100, 90, -27.1, 10.0, 0.0, least_ppv=0.25)
    write_small_run(Run.open(tiny_run), tmp_path / "small", heads, lesions)
    export_model(tmp_path / "small", tmp_path / "again", "weights")
    assert KnownHeads.read(tmp_path / "again") == heads
    assert KnownLesions.read(tmp_path / "again") == lesions


def test_lesions_are_found_and_held_to_the_label(tiny_run, cases):
    model, case = load_run(tiny_run), cases[0]
    maps, _ = infer_case(model.params, case, model.recipe)
    parts, count = ndimage.label(maps.predicted, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())[1:] * np.prod(case.spacing_mm) / 1000
    median = float(np.median(sizes))
    found = find_lesions(model, case)
    np.testing.assert_allclose(found.volume_ml, sizes)
    expected = [bool(maps.lesion[parts == one + 1].any()) for one in range(count)]
    assert found.hit.tolist() == expected
    assert found.has_infarct == maps.lesion.any()
    strict = replace(model, recipe=replace(model.recipe, least_lesion_ml=median))
    large = find_lesions(strict, case)
    np.testing.assert_allclose(large.volume_ml, sizes[sizes >= median])
    healthy = replace(case, lesion=np.zeros_like(case.lesion))
    found = find_lesions(model, healthy)
    assert not found.hit.any()
    assert not found.has_infarct


@pytest.mark.slow
def test_a_small_run_tells_of_heads_unlike_its_own(
    tiny_run, tiny_data, cases, tmp_path, capsys
):
    small = tmp_path / "small"
    arguments = ["export-model", str(tiny_run), str(small), "--format", "weights"]
    main([*arguments, "--heads", str(tiny_data)])
    assert "how often its lesions are true is not told" in capsys.readouterr().err
    system, case = load_system(small), cases[0]
    bright = replace(case, volume=np.minimum(case.volume + case.brain, 1))
    (flag,) = [
        each for each in system.infer(bright).maps.flags if "half of the brain" in each
    ]
    assert "below 80.0 HU, unlike the 1 head that stands" in flag
    coarse = tmp_path / "coarse"
    write_heads(coarse, train=1)
    with pytest.raises(UserError, match="was prepared with shape"):
        export_model(tiny_run, tmp_path / "other", "weights", heads=coarse)
    assert not (tmp_path / "other").exists()
