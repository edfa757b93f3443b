import shutil
from dataclasses import replace

import pytest

from adn_jax.data.manifest import read_manifest
from adn_jax.data.stream import DRAWN_DIGEST
from adn_jax.errors import UserError
from adn_jax.evaluation.evaluate import evaluate_run
from adn_jax.evaluation.source import check_not_learnt
from adn_jax.io.files import read_json, write_json
from adn_jax.training.learnt import learnt_cases
from adn_jax.training.runs import BUNDLED, Run, load_run, write_small_run
from tests.evaluation.noted import note


def test_results_of_the_bundled_model_need_a_folder(tiny_data):
    with pytest.raises(UserError, match="give --out FOLDER"):
        evaluate_run(BUNDLED, tiny_data)


def test_a_small_run_is_scored_elsewhere(tiny_run, tiny_data, tmp_path):
    write_small_run(Run.open(tiny_run), tmp_path / "small")
    found = evaluate_run(tmp_path / "small", tiny_data, out=tmp_path / "scores")
    assert found.folder == tmp_path / "scores" / "test"
    assert (found.folder / "summary.json").exists()
    assert not (tmp_path / "small" / "evaluation").exists()


def test_a_small_run_still_knows_that_it_has_learnt(
    tiny_run, tiny_data, tmp_path, capsys
):
    learnt = read_manifest(tiny_data)
    note(tiny_run, data=str(tiny_data), cases_sha256=learnt.digest, fold=None)
    write_small_run(Run.open(tiny_run), tmp_path / "small")
    small = Run.open(tmp_path / "small")
    assert small.data is None
    assert check_not_learnt(small, learnt, learnt.splits["test"]) is None
    assert capsys.readouterr().err == ""
    first, *others = learnt.splits["train"]
    other = replace(learnt, splits={"train": tuple(others), "test": (first,)})
    check_not_learnt(small, other, (first,))
    assert "has learnt from is not known any more" in capsys.readouterr().err
    note(tiny_run, cases_sha256=DRAWN_DIGEST, data=None)
    check_not_learnt(Run.open(tiny_run), other, (first,))
    assert capsys.readouterr().err == ""


def test_a_run_is_not_scored_on_what_its_first_weights_have_learnt(
    tiny_run, twin_run, tiny_data, tmp_path
):
    learnt = read_manifest(tiny_data)
    own = {"data": str(tiny_data), "cases_sha256": learnt.digest}
    swapped = {"train": learnt.splits["test"], "test": learnt.splits["train"]}
    before = replace(learnt, splits={**learnt.splits, **swapped})
    note(tiny_run, **own, joint_run=str(twin_run))
    note(twin_run, data=None, cases_sha256=before.digest)
    run = Run.open(tiny_run)
    assert learnt_cases(run, learnt, learnt.splits["test"]) is None
    note(twin_run, cases_sha256=DRAWN_DIGEST)
    assert learnt_cases(run, learnt, learnt.splits["test"]) == []
    note(twin_run, **own)
    assert learnt_cases(run, before, before.splits["test"]) == [*before.splits["test"]]
    write_small_run(run, tmp_path / "small")
    assert Run.open(tmp_path / "small").pretrained == {"joint": str(twin_run)}


@pytest.mark.parametrize("sha256", [{"ct.nii": "of another scan"}, None])
def test_a_learnt_scan_is_known_by_another_name(
    tiny_run, tiny_data, tmp_path, capsys, sha256
):
    learnt = read_manifest(tiny_data)
    note(tiny_run, data=str(tiny_data), cases_sha256=learnt.digest)
    name, *_ = learnt.splits["train"]
    for other in (name, "renamed"):
        shutil.copytree(tiny_data / name, tmp_path / other)
    case = tmp_path / name / "case.json"
    write_json(case, read_json(case) | {"sha256": sha256})
    manifest = replace(
        learnt,
        folder=tmp_path,
        cases=(name, "renamed"),
        splits={"test": (name, "renamed")},
    )
    seen = learnt_cases(Run.open(tiny_run), manifest, manifest.cases)
    assert seen == ["renamed"]
    said = (
        f"has learnt from cases of the same names as {name} in {tmp_path}, whose scans "
        "differ or cannot be compared;"
    )
    assert said in capsys.readouterr().err


def test_old_runs_do_not_know_what_they_have_learnt(tiny_run, tiny_data):
    manifest = read_manifest(tiny_data)
    note(tiny_run, data="elsewhere", cases_sha256=None)
    assert learnt_cases(Run.open(tiny_run), manifest, manifest.cases) is None
    note(tiny_run, data=str(tiny_data))
    assert learnt_cases(Run.open(tiny_run), manifest, manifest.cases) == []


def test_the_bundled_model_is_small_and_can_be_loaded():
    model = load_run(BUNDLED)
    assert model.run.data is None
    assert model.recipe.name == "bundled"
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) < 12_000_000
    assert (BUNDLED / "MODEL_CARD.md").exists()
