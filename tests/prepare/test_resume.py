from dataclasses import replace

import pytest

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.data.manifest import Manifest
from adn_jax.datasets.raw import FileCase
from adn_jax.errors import UserError
from adn_jax.prepare import dataset as finished
from adn_jax.prepare.dataset import (
    check_output,
    input_fingerprint,
    is_prepared,
    orphaned_cases,
    remove_half_cases,
)

SETTINGS, READING = PrepareSettings(), ReadSettings()


@pytest.fixture
def case(tmp_path):
    scan, lesion = tmp_path / "ct.nii", tmp_path / "lesion.nii"
    scan.write_bytes(b"scan")
    lesion.write_bytes(b"label")
    return FileCase("a", scan, lesion)


def test_the_fingerprint_tells_whatever_a_case_depends_on(case, tmp_path, monkeypatch):
    first = input_fingerprint(case, SETTINGS, READING)
    assert input_fingerprint(case, SETTINGS, READING) == first
    prints = {
        first,
        input_fingerprint(replace(case, name="b"), SETTINGS, READING),
        input_fingerprint(replace(case, lesion=None), SETTINGS, READING),
        input_fingerprint(case, replace(SETTINGS, window_hu=(0.0, 100.0)), READING),
        input_fingerprint(case, SETTINGS, replace(READING, series="2")),
    }
    case.lesion.write_bytes(b"other")
    prints.add(input_fingerprint(case, SETTINGS, READING))
    own_atlas = replace(READING, atlas=str(tmp_path / "atlas"))
    (tmp_path / "atlas").mkdir()
    for content in (b"one", b"two"):
        (tmp_path / "atlas" / "grey.nii").write_bytes(content)
        prints.add(input_fingerprint(case, SETTINGS, own_atlas))
    monkeypatch.setattr(finished, "PREPARED_VERSION", 99)
    prints.add(input_fingerprint(case, SETTINGS, READING))
    assert len(prints) == 9


def test_how_it_was_found_does_not_matter(case, tmp_path):
    (tmp_path / "atlas").mkdir()
    (tmp_path / "atlas" / "grey.nii").write_bytes(b"one")
    here = replace(READING, atlas=str(tmp_path / "atlas"))
    there = replace(READING, atlas=str(tmp_path / "elsewhere"), layout="plain")
    first = input_fingerprint(case, SETTINGS, here)
    (tmp_path / "atlas").rename(tmp_path / "elsewhere")
    assert input_fingerprint(case, SETTINGS, there) == first


@pytest.mark.parametrize("content", ["{}", "[]", "damaged", '{"input": 3}'])
def test_a_spoilt_case_is_not_done(case, tmp_path, content):
    folder = tmp_path / "out" / "a"
    assert not is_prepared(case, tmp_path / "out", SETTINGS, READING)
    folder.mkdir(parents=True)
    (folder / "case.json").write_text(content)
    assert not is_prepared(case, tmp_path / "out", SETTINGS, READING)


def test_a_case_whose_input_is_gone_is_not_done(case, tmp_path):
    folder = tmp_path / "out" / "a"
    folder.mkdir(parents=True)
    known = input_fingerprint(case, SETTINGS, READING)
    (folder / "case.json").write_text(f'{{"input": "{known}", "sha256": {{}}}}')
    assert is_prepared(case, tmp_path / "out", SETTINGS, READING)
    case.lesion.unlink()
    assert not is_prepared(case, tmp_path / "out", SETTINGS, READING)


def test_only_what_we_left_half_written_is_removed(tmp_path):
    ours = [".4711.a", "quality/.4711.a.png", ".1.manifest.json", ".2.report.md"]
    others = [".4711.stranger", ".hidden.a", "4711.a", "quality/.4711.z.png", ".lock"]
    (tmp_path / "quality").mkdir()
    for name in (*ours, *others):
        (tmp_path / name).write_text("half")
    (tmp_path / ".12.b").mkdir()
    (tmp_path / ".12.b" / "ct.nii").write_text("half")
    remove_half_cases(tmp_path, ["a", "b"])
    left = {
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert left == set(others)


def test_strangers_are_named(tmp_path):
    for name in ("a", "bad", "old", "older"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "case.json").write_text("{}")
    (tmp_path / "quality").mkdir()
    manifest = Manifest(SETTINGS, ("a",), {}, tmp_path, failed={"bad": "why"})
    assert orphaned_cases(manifest) == ["old", "older"]


def test_raw_cases_are_not_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    check_output(tmp_path, ["a"])
    (tmp_path / "a" / "ct.nii.gz").write_bytes(b"")
    with pytest.raises(UserError, match="a is no prepared case, and one of that name"):
        check_output(tmp_path, ["a"])
