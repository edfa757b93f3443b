"""Predictions of other tools as rows of a table."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adn_jax.comparison.compare import read_scores
from adn_jax.comparison.peers import find_peer_runs, name_predictions
from adn_jax.data.cases import read_case, read_native_lesion
from adn_jax.data.manifest import read_manifest
from adn_jax.errors import UserError
from adn_jax.evaluation import evaluate as module
from adn_jax.evaluation.evaluate import evaluate_peer
from adn_jax.evaluation.report import Pictures
from adn_jax.io.image import write_image

CASES = ("turned", "upright", "healthy")


@pytest.fixture
def manifest(tiny_data):
    return read_manifest(tiny_data)


@pytest.fixture
def folders(tmp_path, tiny_data):
    """Predictions of two seeds: the label moved by two voxels, and by four."""
    for seed, shift in enumerate((2, 4)):
        (tmp_path / f"seed{seed}").mkdir()
        for name in CASES:
            lesion = read_native_lesion(tiny_data / name)
            moved = lesion.holding(np.roll(lesion.voxels, shift, 0), "mask")
            write_image(tmp_path / f"seed{seed}" / f"{name}.nii", moved)
    return [tmp_path / "seed0", tmp_path / "seed1"]


def test_a_tool_is_named_or_called_as_its_folder():
    assert name_predictions(["nnunet=a/b", "c/d/"]) == [
        ("nnunet", Path("a/b")),
        ("d", Path("c/d")),
    ]


def test_two_tools_are_not_taken_for_seeds_of_one():
    with pytest.raises(UserError, match=r"calls a/p and b/p both 'p'; name them apart"):
        name_predictions(["a/p", "b/p"])
    with pytest.raises(UserError, match=r"calls a/x and p both 'p'"):
        name_predictions(["p=a/x", "p"])
    seeds = name_predictions(["p=a/p", "p=b/p"])
    assert seeds == [("p", Path("a/p")), ("p", Path("b/p"))]


def test_folders_of_one_name_are_its_seeds(folders, manifest, monkeypatch):
    monkeypatch.setattr(module, "write_peer_figures", lambda *_: Pictures({}, {}))
    named = [("tool", folder) for folder in folders]
    runs = find_peer_runs(named, (3, 5), manifest, "test")
    assert [run.name for run in runs] == ["tool-seed3", "tool-seed5"]
    for run in runs:
        evaluate_peer(run.peer, manifest, "test")
    (found,) = read_scores(runs, "test").systems
    assert (found.system.name, found.seeds) == ("tool", (3, 5))
    near, far = found.tables["dice"]
    assert (near >= far).all()
    assert near[0] > far[0]


@pytest.fixture
def scored(folders, manifest, monkeypatch):
    """A tool that was scored, without pictures."""
    monkeypatch.setattr(module, "write_peer_figures", lambda *_: Pictures({}, {}))
    (run,) = find_peer_runs([("tool", folders[0])], (0,), manifest, "test")
    evaluate_peer(run.peer, manifest, "test", wait=True)
    return run


def test_a_table_of_other_data_scores_predictions_again(
    scored, manifest, tmp_path, monkeypatch
):
    other = shutil.copytree(manifest.folder, tmp_path / "data")
    splits = {"test": CASES[:2]}
    fewer = replace(manifest, folder=other, splits=splits)
    found = evaluate_peer(scored.peer, fewer, "test", wait=True)
    assert (found.summary["data"], found.summary["cases"]) == (str(other), 2)
    assert read_scores([scored], "test").cases == CASES[:2]

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_peer_figures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_peer(scored.peer, manifest, "test", wait=True)
    left = {path.name for path in found.folder.iterdir()}
    assert not left & {"summary.json", "report.html", "per_case.csv"}


def test_scores_can_be_read_while_another_shard_draws_them_again(
    scored, manifest, monkeypatch
):
    before, read = read_scores([scored], "test"), []

    def draw(*_):
        read.append(read_scores([scored], "test"))
        return Pictures({}, {})

    monkeypatch.setattr(module, "write_peer_figures", draw)
    evaluate_peer(scored.peer, manifest, "test", wait=True)
    (now,) = read
    assert now.cases == before.cases
    for then, again in zip(before.systems, now.systems, strict=True):
        np.testing.assert_array_equal(again.tables["dice"], then.tables["dice"])


def test_masks_are_those_of_the_prepared_grid(folders, manifest, tiny_data):
    (run,) = find_peer_runs([("tool", folders[0])], (0,), manifest, "test")
    (mask,) = run.masks(manifest, ["turned"])
    label = read_case(tiny_data / "turned").lesion >= 0.5
    # the scan's x runs against the prepared grid's
    np.testing.assert_array_equal(mask, np.roll(label, -2, axis=2))


def test_too_many_folders_are_refused(folders, manifest):
    named = [("tool", folder) for folder in folders]
    with pytest.raises(UserError, match=r"tool more often than there are seeds \(1\)"):
        find_peer_runs(named, (0,), manifest, "test")
    with pytest.raises(UserError, match=r"seed0 twice; give each once"):
        find_peer_runs([named[0]] * 2, (0, 1), manifest, "test")


def test_one_folder_is_no_second_seed_however_it_is_spelled(
    folders, manifest, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folders[0])
    for other in ("seed0", "seed1/../seed0", "link"):
        named = [("tool", folders[0]), ("tool", Path(other))]
        with pytest.raises(UserError, match="twice; give each once"):
            find_peer_runs(named, (0, 1), manifest, "test")
    shutil.copytree(folders[0], tmp_path / "copy")
    with pytest.raises(UserError, match="seed0 and copy, given as two seeds of tool"):
        find_peer_runs([named[0], ("tool", Path("copy"))], (0, 1), manifest, "test")
    two = find_peer_runs([named[0], ("b", Path("copy"))], (0, 1), manifest, "test")
    assert [run.name for run in two] == ["tool-seed0", "b-seed0"]


def test_a_path_may_hold_an_equals_sign_or_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "lr=0.1").mkdir()
    texts = ["/data/lr=0.1/p", "lr=0.1", "nn=/data/lr=0.1/q", "a=~/r", "~/s"]
    assert name_predictions(texts) == [
        ("p", Path("/data/lr=0.1/p")),
        ("lr=0.1", Path("lr=0.1")),
        ("nn", Path("/data/lr=0.1/q")),
        ("a", tmp_path / "r"),
        ("s", tmp_path / "s"),
    ]
