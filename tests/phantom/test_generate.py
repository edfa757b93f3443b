"""Phantoms as a raw data set: truth that fits the scan, and the same bytes again."""

import json
from dataclasses import replace
from hashlib import sha256

import nibabel
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from adn_jax.errors import UserError
from adn_jax.phantom.generate import (
    add_head_holder,
    build_phantom,
    common_side,
    draw_scan,
    noise,
    split_cases,
    write_phantom,
    write_phantoms,
)
from adn_jax.phantom.head import points_in_head
from adn_jax.phantom.settings import EASY, HARD

TINY = replace(EASY, in_plane=48, slice_mm=(8.0, 10.0))

TINY_HARD = replace(HARD, in_plane=48, slice_mm=(8.0, 10.0))


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def phantom():
    return build_phantom(0, 0, replace(TINY, in_plane=96))


def test_the_healthy_twin_differs_by_the_pathological_map_alone(phantom):
    healthy = build_phantom(0, 0, replace(TINY, in_plane=96), infarcts=False)
    np.testing.assert_allclose(healthy.ct - phantom.ct, phantom.pathological, atol=1e-3)
    assert not healthy.lesion.any()
    assert healthy.truth["side"] == "none"
    assert phantom.pathological.min() == 0
    assert 4 < phantom.pathological[phantom.lesion].mean() < 12


def test_ct_numbers_are_those_of_a_head(phantom):
    ct, healthy = phantom.ct, phantom.pathological == 0
    assert ct[phantom.grey.astype(bool) & (phantom.grey > 0.95) & healthy].mean() == (
        pytest.approx(37, abs=2)
    )
    assert ct[(phantom.white > 0.95) & healthy].mean() == pytest.approx(29, abs=2)
    brain = phantom.grey + phantom.white + phantom.csf
    skull = (ct > 500) & (brain < 0.05)
    assert 0.02 < skull.mean() < 0.2
    assert 800 < np.quantile(ct[skull], 0.9) < 1400
    assert ct[:, 0, 0].mean() == pytest.approx(-1000, abs=3)
    assert 0.9 < brain.max() <= 1.001
    voxel_ml = np.prod(np.diag(phantom.affine)[:3]) / 1000
    assert 1000 < (brain >= 0.5).sum() * voxel_ml < 1900


@pytest.mark.parametrize("index", range(3))
def test_the_lesion_lies_in_the_tissue_of_one_side(index):
    phantom = build_phantom(3, index, TINY)
    where = np.argwhere(phantom.lesion)[:, ::-1]
    world = where @ phantom.affine[:3, :3].T + phantom.affine[:3, 3]
    world_to_head = np.linalg.inv(np.array(phantom.truth["head_to_world"]))
    x = (world @ world_to_head[:3, :3].T + world_to_head[:3, 3])[:, 0]
    assert (x > 0).all() if phantom.truth["side"] == "right" else (x < 0).all()
    assert ((phantom.grey + phantom.white)[phantom.lesion] >= 0.5).all()
    voxel_ml = np.linalg.det(phantom.affine[:3, :3]) / 1000
    assert phantom.truth["lesion_ml"] == pytest.approx(len(where) * voxel_ml)
    asked = sum(infarct["volume_ml"] for infarct in phantom.truth["infarcts"])
    assert phantom.truth["lesion_ml"] == pytest.approx(asked, rel=0.25)


def test_pose_and_thickness_fill_their_ranges():
    rng = np.random.default_rng(0)
    scans = [draw_scan(rng, HARD) for _ in range(300)]
    rotation = np.abs([scan.rotation_deg for scan in scans]).max(0)
    assert (rotation <= HARD.rotation_deg).all()
    assert (rotation > 0.9 * np.array(HARD.rotation_deg)).all()
    assert (np.abs([scan.shift_mm for scan in scans]) <= HARD.shift_mm).all()
    thickness = [scan.slice_mm for scan in scans]
    assert min(thickness) == pytest.approx(3, abs=0.2)
    assert max(thickness) == pytest.approx(10, abs=0.2)
    assert {scan.orientation for scan in scans} == {"RAS", "LAS", "LPS"}


def test_sides_are_named_together():
    assert common_side(set()) == "none"
    assert common_side({"left"}) == "left"
    assert common_side({"left", "right"}) == "both"


def test_noise_has_its_spread_and_is_correlated_in_plane_only():
    values = noise(np.random.default_rng(0), (40, 64, 64), 1.0, EASY)
    assert values.std() == pytest.approx(EASY.noise_hu, rel=1e-3)
    neighbours = [
        np.corrcoef(values[1:].ravel(), values[:-1].ravel())[0, 1],
        np.corrcoef(values[:, 1:].ravel(), values[:, :-1].ravel())[0, 1],
    ]
    assert abs(neighbours[0]) < 0.02
    assert neighbours[1] > 0.6


def test_the_head_holder_is_behind_the_head_and_in_air_only():
    ct = np.full((2, 64, 64), -1000.0, np.float32)
    ct[:, 24:48, 20:44] = 30.0
    affine = np.diag([3.75, 3.75, 5.0, 1.0])
    affine[:3, 3] = (-118, -118, -2.5)
    added = add_head_holder(ct, affine) - ct
    assert added[:, 24:48, 20:44].max() == 0
    assert added[:, :24].max() > 500
    assert added[:, 48:, 20:44].max() == 0


def test_files_hold_the_phantom_in_the_stored_orientation(tmp_path):
    phantom = replace(build_phantom(2, 0, TINY), orientation="LPS")
    write_phantom(tmp_path / "case", phantom)
    ct = nibabel.load(tmp_path / "case/ct.nii.gz")
    assert nibabel.aff2axcodes(ct.affine) == ("L", "P", "S")
    assert ct.get_data_dtype() == np.int16
    back = nibabel.as_closest_canonical(ct)
    np.testing.assert_allclose(back.affine, phantom.affine, atol=1e-4)
    np.testing.assert_allclose(
        back.get_fdata().transpose(2, 1, 0), np.clip(phantom.ct, -1024, 3071), atol=0.51
    )
    for name, values, tolerance in (
        ("lesion", phantom.lesion, 0),
        ("tissue/grey", phantom.grey, 1 / 255),
        ("truth/pathological", phantom.pathological, 1e-5),
        ("truth/brain", phantom.grey + phantom.white + phantom.csf >= 0.5, 0),
    ):
        image = nibabel.load(tmp_path / "case" / f"{name}.nii.gz")
        np.testing.assert_allclose(image.affine, ct.affine)
        found = nibabel.as_closest_canonical(image).get_fdata().transpose(2, 1, 0)
        np.testing.assert_allclose(found, values, atol=tolerance, err_msg=name)
    pose = json.loads((tmp_path / "case/truth/pose.json").read_text())
    assert pose == phantom.truth


def test_same_seed_same_bytes_for_any_number_of_cases_or_workers(tmp_path):
    write_phantoms(tmp_path / "two", 2, 5, TINY, workers=1)
    splits = write_phantoms(tmp_path / "three", 3, 5, TINY, 1, 1, workers=2)
    two, three = digests(tmp_path / "two"), digests(tmp_path / "three")
    scans = [name for name in two if name.startswith("phantom_")]
    assert len(scans) == 2 * 8
    assert [name for name in scans if two[name] != three[name]] == []
    assert two["phantom_0000/ct.nii.gz"] != two["phantom_0001/ct.nii.gz"]
    assert json.loads((tmp_path / "three/splits.json").read_text()) == splits
    assert splits == {
        "train": ["phantom_0000"],
        "validation": ["phantom_0001"],
        "test": ["phantom_0002"],
    }


def test_a_phantom_does_not_depend_on_the_threads_of_blas():
    drawn = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            drawn.append(build_phantom(5, 0, TINY))
    one, two = drawn
    for name in ("ct", "grey", "pathological"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_another_seed_is_another_head():
    first, second = (build_phantom(seed, 0, TINY_HARD) for seed in (0, 1))
    assert first.truth["rotation_deg"] != second.truth["rotation_deg"]


def test_a_second_run_makes_only_what_is_missing(tmp_path):
    write_phantoms(tmp_path, 2, 5, TINY, workers=1)
    before = digests(tmp_path)
    kept = tmp_path / "phantom_0000/lesion.nii.gz"
    kept_time = kept.stat().st_mtime_ns
    for path in sorted((tmp_path / "phantom_0001").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "phantom_0001").rmdir()
    write_phantoms(tmp_path, 2, 5, TINY, workers=1)
    assert digests(tmp_path) == before
    assert kept.stat().st_mtime_ns == kept_time


def test_a_seed_that_draws_nothing_claims_no_folder(tmp_path):
    with pytest.raises(UserError, match="--seed is -1; it has to be at least 0"):
        write_phantoms(tmp_path / "out", 1, -1)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_content_is_refused(tmp_path):
    (tmp_path / "scan.nii").write_text("a patient")
    with pytest.raises(UserError, match="is not empty and holds no phantoms; choose"):
        write_phantoms(tmp_path, 1, 0, TINY, workers=1)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, "seed"), ({"difficulty": TINY_HARD}, "difficulty")],
)
def test_a_folder_of_other_phantoms_is_refused(tmp_path, change, named):
    call = {"out": tmp_path, "cases": 1, "seed": 0, "difficulty": TINY, "workers": 1}
    write_phantoms(**call)
    with pytest.raises(
        UserError, match=rf"other settings \({named}\); choose an empty"
    ):
        write_phantoms(**call | change)


def test_splits_take_their_share_or_the_numbers_given():
    def sizes(*counts):
        return [len(names) for names in split_cases(*counts).values()]

    assert sizes(68, 8, 12) == [48, 8, 12]
    assert sizes(100, None, None) == [70, 12, 18]
    assert sizes(1, None, None) == [1, 0, 0]


@pytest.mark.parametrize("counts", [(0, None, None), (5, 3, 3), (5, -1, 0)])
def test_counts_that_do_not_fit_are_refused(counts):
    with pytest.raises(UserError, match="at least one case is wanted"):
        split_cases(*counts)


def test_the_scan_is_centred_on_the_scanner():
    phantom = build_phantom(0, 0, TINY)
    corner = phantom.affine @ [47, 47, len(phantom.ct) - 1, 1]
    np.testing.assert_allclose(corner[:3], -phantom.affine[:3, 3], atol=1e-6)
    axes = [
        (phantom.affine[i, 3] + phantom.affine[i, i] * np.arange(n)).astype(np.float32)
        for i, n in enumerate(phantom.ct.shape[::-1])
    ]
    head = points_in_head(*axes[::-1], np.array(phantom.truth["head_to_world"]))
    assert (phantom.ct[np.abs(head).max(0) < 30] > -20).all()
