import errno
import hashlib
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK

from adn_jax.cli.main import main
from adn_jax.config import AsymmetrySettings, ReadSettings
from adn_jax.data.known_lesions import KnownLesions
from adn_jax.datasets.plain import find_plain
from adn_jax.errors import UserError
from adn_jax.inference import predict as module
from adn_jax.inference.maps import Lesions, number_and_largest
from adn_jax.inference.predict import (
    UNITS,
    identity_of,
    lost_lesions,
    predict_scans,
    result_folders,
    result_names,
    units_of,
)
from adn_jax.inference.system import Inferred, System
from adn_jax.io.files import atomic_path
from adn_jax.prepare.case import prepare_scan, to_native
from adn_jax.scans.read import read_scan
from adn_jax.training.runs import Run, load_run, write_small_run
from tests.inference.planted import planted
from tests.inference.test_dicom import comments_of
from tests.scans.dicom.files import head_of_blocks, write_series


@pytest.fixture(scope="module")
def reoriented(raw_head, tmp_path_factory):
    """The same head stored with other axes, so that no step may rely on RAS."""
    path = tmp_path_factory.mktemp("scan") / "LSP.nii.gz"
    image = nib.load(raw_head)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("LSP")
    )
    image.as_reoriented(turn).to_filename(path)
    return path


def load(folder, name):
    return nib.load(folder / f"{name}.nii.gz")


def test_results_lie_on_the_scans_own_grid(tiny_run, reoriented, tmp_path):
    assert predict_scans(tiny_run, [reoriented], tmp_path / "out", samples=2) == {}
    folder, scan = tmp_path / "out" / "LSP", nib.load(reoriented)
    files = {f"{name}.nii.gz" for name in UNITS}
    files |= {"scan.json", "figure.png", "viewer.html"}
    assert {path.name for path in folder.iterdir()} == files
    for name in UNITS:
        image = load(folder, name)
        assert image.shape == scan.shape
        np.testing.assert_allclose(image.affine, scan.affine, atol=1e-5)
        assert np.isfinite(image.get_fdata()).all()
    check_values(folder, scan)
    check_facts(json.loads((folder / "scan.json").read_text()), folder)
    page = (folder / "viewer.html").read_text()
    assert "default-src 'none'" in page
    assert len(page) < 12e6


def test_lesions_that_are_too_small_to_count_are_in_no_result(
    tiny_run, reoriented, tmp_path
):
    options = out_of(tmp_path)
    main(["predict", str(tiny_run), str(reoriented), "--no-viewer", *options])
    folder = tmp_path / "out" / "LSP"
    before = json.loads((folder / "scan.json").read_text())
    probability = load(folder, "probability").get_fdata()
    assert before["model"]["least_lesion_ml"] == 0.0
    options += ("--least-lesion-ml", "1e4")
    main(["predict", str(tiny_run), str(reoriented), *options])
    after = json.loads((folder / "scan.json").read_text())
    page = (folder / "viewer.html").read_text()
    left_out_ml = after["lesions_left_out_ml"]
    assert len(left_out_ml) == after["lesions_left_out"]
    told = number_and_largest(left_out_ml)
    assert f"; left out as too small or doubtful to count: {told}." in page
    # the volumes of the prepared grid, which the rule looks at, are those of the scan's
    # own but for its rim
    assert sum(left_out_ml) == pytest.approx(before["lesion_volume_ml"], rel=0.1)
    assert before["lesion_volume_ml"] > 0
    assert after["lesion_volume_ml"] == 0
    assert after["lesions"] == []
    # before, those alone of which the scan's grid shows nothing
    assert after["lesions_left_out"] > before["lesions_left_out"]
    assert after["model"]["least_lesion_ml"] == 1e4
    assert not load(folder, "lesion").get_fdata().any()
    held = load(folder, "probability").get_fdata()
    assert held.max() < 0.5
    assert (held <= probability).all()


def test_a_lesion_of_which_the_scans_grid_shows_nothing_counts_as_left_out(
    tiny_run, reoriented, tmp_path, monkeypatch
):
    infer = System.infer

    def infer_two(system, case):
        """A block, and a voxel that is no infarct anywhere but at its very centre."""
        maps, outputs, uncertainty = infer(system, case)
        prediction = np.zeros_like(maps.prediction)
        middle = np.array(prediction.shape) // 2
        prediction[tuple(slice(at - 1, at + 2) for at in middle)] = 1
        prediction[tuple(middle - 4)] = np.nextafter(np.float32(0.5), np.float32(1))
        maps = replace(maps, prediction=prediction)
        return Inferred(maps, outputs, uncertainty)

    monkeypatch.setattr(System, "infer", infer_two)
    main(["predict", str(tiny_run), str(reoriented), *out_of(tmp_path)])
    folder = tmp_path / "out" / "LSP"
    facts = json.loads((folder / "scan.json").read_text())
    assert len(facts["lesions"]) == 1
    assert facts["lesions_left_out"] == 1
    told = "; left out as too small or doubtful to count: 1, of "
    assert told in (folder / "viewer.html").read_text()


def test_the_brain_mask_of_a_case_folder_counts_as_in_preparation(tiny_run, raw, head):
    mask = np.asarray(head.brain.dataobj).copy()
    mask[: mask.shape[0] // 3] = 0
    given = nib.Nifti1Image(mask, head.brain.affine)
    given.to_filename(raw / "a" / "brain.nii.gz")
    model = load_run(tiny_run)
    found = module.predict(model, raw / "a")
    settings = replace(model.recipe.system.prepare, tissue="none")
    (case,) = (one for one in find_plain(raw).cases if one.name == "a")
    prepared = prepare_scan(case.load(settings, ReadSettings()), settings)
    np.testing.assert_array_equal(found.case.brain, prepared.brain)
    np.testing.assert_array_equal(found.case.volume, prepared.volume)
    assert found.facts["source"]["brain_mask"] == "brain.nii.gz"
    alone = module.predict(model, raw / "b")
    assert alone.case.brain.sum() > 1.1 * found.case.brain.sum()
    assert "brain_mask" not in alone.facts["source"]


@pytest.mark.parametrize("codes", ["RAS", "PIR"])
@pytest.mark.parametrize("share", [0.0, 0.002])
def test_lesions_are_lost_that_give_no_voxel_alone(codes, share):
    scan, case, maps = planted(codes, tilt=0.2)
    drawn = np.random.default_rng(3).random((2, *maps.prediction.shape), np.float32)
    scattered = np.where(drawn[0] < share, drawn[1], 0)
    maps = replace(maps, prediction=np.maximum(maps.prediction, scattered))
    number, voxels = Lesions.of(maps.predicted)

    def on_scan(prediction):
        return to_native(prediction, case.geometry) >= maps.threshold

    # below the threshold other lesions' surroundings add to what one lesion gives
    alone = [
        on_scan(np.where((number == 0) | (number == one), maps.prediction, 0))
        for one in range(1, 1 + len(voxels))
    ]
    lost = lost_lesions(maps, case, scan.holding(on_scan(maps.prediction), "lesion"))
    volumes_ml = Lesions(number, voxels).volumes_ml(maps.spacing_mm)
    pairs = zip(volumes_ml, alone, strict=True)
    assert lost == tuple(ml for ml, one in pairs if not one.any())
    assert bool(lost) == (share > 0)
    assert len(lost) < len(voxels)


@pytest.fixture
def measured_run(tiny_run, tmp_path):
    """A small run that tells how often its lesions are true: hardly, or nearly always,
    for one of more than 15 mL."""
    folder = tmp_path / "measured"
    known = KnownLesions(100, 90, -27.1, 10.0, 0.0, least_ppv=0.25)
    write_small_run(Run.open(tiny_run), folder, lesions=known)
    return folder


def test_lesions_that_are_rarely_true_are_in_no_result(
    measured_run, reoriented, tmp_path
):
    command = ["predict", str(measured_run), str(reoriented), *out_of(tmp_path)]
    main([*command, "--least-ppv", "0"])
    folder = tmp_path / "out" / "LSP"
    everything = json.loads((folder / "scan.json").read_text())
    assert everything["model"]["known_lesions"]["least_ppv"] == 0
    main(command)
    told = json.loads((folder / "scan.json").read_text())
    assert told["model"]["known_lesions"]["least_ppv"] == 0.25
    # told is the PPV by which they were kept, not that of what the scan's grid shows
    assert min(lesion["ppv"] for lesion in everything["lesions"]) < 0.25
    assert min(lesion["ppv"] for lesion in told["lesions"]) >= 0.25
    assert told["lesions_left_out"] > everything["lesions_left_out"]
    # components of the prepared grid are judged, those of the scan's are told
    volumes, kept = ([one["volume_ml"] for one in facts["lesions"]]
                     for facts in (everything, told))  # fmt: skip
    assert len(kept) < len(volumes)
    assert [ml for ml in volumes if ml > 30] == [ml for ml in kept if ml > 30] != []
    mask = load(folder, "lesion").get_fdata()
    voxel_ml = abs(np.linalg.det(load(folder, "lesion").affine[:3, :3])) / 1000
    assert mask.sum() * voxel_ml == pytest.approx(sum(kept), rel=1e-5)


def test_the_page_tells_how_often_such_lesions_are_true(
    measured_run, reoriented, tmp_path
):
    options = out_of(tmp_path)
    main(["predict", str(measured_run), str(reoriented), "--least-ppv", "0", *options])
    folder = tmp_path / "out" / "LSP"
    lesion, *_ = json.loads((folder / "scan.json").read_text())["lesions"]
    page = (folder / "viewer.html").read_text()
    assert "<td>{:.0f}%</td>".format(100 * lesion["ppv"]) in page
    assert "marked in 100 heads with a known answer" in page


@pytest.mark.parametrize(
    ("value", "sentence"),
    [("0.5", "nobody measured how often lesions of"), ("2", "give a fraction from 0")],
)
def test_a_ppv_that_means_nothing(
    tiny_run, reoriented, tmp_path, capsys, value, sentence
):
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(tiny_run), str(reoriented), "--least-ppv", value,
              *out_of(tmp_path)])  # fmt: skip
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--threshold", "auto"], "least_ppv is given with a chosen threshold"),
        (["--ensemble", "{run}"], "least_ppv is given with an ensemble"),
        (["--tta.copies", "2"], "least_ppv is given with another test-time"),
    ],
)
def test_a_ppv_of_what_nobody_measured(
    measured_run, tiny_run, tiny_data, tmp_path, capsys, options, sentence
):
    options = [option.format(run=tiny_run) for option in options]
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(measured_run), "--data", str(tiny_data), "--out",
              str(tmp_path / "out"), "--least-ppv", "0.5", *options])  # fmt: skip
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def tilted_series(raw_head, tmp_path_factory):
    """The same head as a gantry tilted by 15 degrees and uneven slices show it."""
    image = nib.as_closest_canonical(nib.load(raw_head))
    hu = image.get_fdata().astype(np.int16).transpose(2, 1, 0)[:, ::-1, ::-1]
    x_mm, y_mm, z_mm = image.header.get_zooms()
    heights = z_mm * np.arange(len(hu))
    heights[len(hu) // 2 :] += z_mm / 2
    folder = tmp_path_factory.mktemp("series") / "tilted"
    write_series(folder, hu, z_mm=heights, tilt_deg=15, PixelSpacing=(y_mm, x_mm))
    return folder


def test_results_of_a_series_lie_on_its_slices_as_taken_too(
    tiny_run, tilted_series, tmp_path
):
    options = ["--dicom", "--no-viewer", *out_of(tmp_path)]
    main(["predict", str(tiny_run), str(tilted_series), *options])
    folder = tmp_path / "out" / "tilted"
    assert not (folder / "viewer.html").exists()
    facts = json.loads((folder / "scan.json").read_text())
    assert "slices of the series" in facts["as_taken"]
    assert "numbers of the series' images, the nearest" in facts["slices_counted"]
    numbers = {number for one in facts["lesions"] for number in one["slices"]}
    assert numbers <= set(range(1, 1 + len(list(tilted_series.iterdir()))))
    files = sorted(tilted_series.iterdir())
    first = pydicom.dcmread(files[0])
    wanted = first.Columns, first.Rows, len(files)
    ct, probability, lesion = (
        SimpleITK.ReadImage(str(folder / f"{name}_as_taken.nii.gz"))
        for name in ("ct", "probability", "lesion")
    )
    assert ct.GetSize() == probability.GetSize() == lesion.GetSize() == wanted
    stored = first.pixel_array * first.RescaleSlope + first.RescaleIntercept
    values = SimpleITK.GetArrayFromImage(ct)
    assert (values[0, ::-1] == stored).all() or (values[0] == stored).all()
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(lesion),
        SimpleITK.GetArrayFromImage(probability) >= 0.5,
    )
    for path in folder.glob("*.nii.gz"):
        SimpleITK.ReadImage(str(path))
    check_dicom(folder, [pydicom.dcmread(path).SOPInstanceUID for path in files])


def out_of(tmp_path):
    return "--out", str(tmp_path / "out")


def check_dicom(folder, uids):
    """The DICOM objects hold what the files on the slices as taken hold."""
    facts = json.loads((folder / "scan.json").read_text())["dicom"]
    for name, step in (("lesion", 0), ("probability", 0.501 / 255)):
        segmentation = highdicom.seg.segread(folder / facts["files"][name])
        frames = segmentation.get_pixels_by_source_instance(
            uids, combine_segments=False
        )
        wanted = np.asarray(load(folder, f"{name}_as_taken").dataobj)
        wanted = wanted.transpose(2, 1, 0)[:, ::-1]
        assert wanted.any()
        np.testing.assert_allclose(frames[..., 0], wanted, rtol=0, atol=step + 1e-6)
    assert facts["lesion_volume_ml"] > 0
    told = json.loads((folder / "scan.json").read_text())
    said = comments_of(folder / facts["files"]["report"])
    assert said[: len(told["flags"])] == told["flags"] != []
    left_out = number_and_largest(told["lesions_left_out_ml"])
    assert said[-2] == f"lesions left out as too small or doubtful to count: {left_out}"
    assert said[-1] == f"threshold: {told['threshold']}"


def test_a_scan_without_series_has_no_dicom_result(
    tiny_run, raw_head, tmp_path, capsys
):
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(tiny_run), str(raw_head), "--dicom", *out_of(tmp_path)])
    assert stop.value.code == 2
    assert "is no DICOM series" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (KeyError("Rows"), "KeyError: 'Rows'"),
        (ValueError(), "ValueError"),
        (UserError("odd."), "odd"),
    ],
)
def test_all_else_stays_where_the_dicom_result_fails(
    tiny_run, tilted_series, tmp_path, monkeypatch, capsys, error, why
):
    def write_dicom(folder, *_):
        folder.mkdir()
        raise error

    monkeypatch.setattr(module, "write_dicom", write_dicom)
    options = ["--dicom", "--no-viewer", *out_of(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(tiny_run), str(tilted_series), *options])
    assert stop.value.code == 2
    folder = tmp_path / "out" / "tilted"
    said = f"has no DICOM result ({why}); all its other results are in {folder}."
    output = capsys.readouterr()
    assert said in output.err
    assert output.out.endswith(f"1 scan is in {folder.parent}\n")
    assert (folder / "lesion.nii.gz").is_file()
    assert not (folder / "dicom").exists()
    facts = json.loads((folder / "scan.json").read_text())
    assert facts["dicom"] == {"not_written": why}


def check_values(folder, scan):
    """The relations between the volumes."""
    values = {name: load(folder, name).get_fdata() for name in UNITS}
    np.testing.assert_array_equal(values["ct"], scan.get_fdata())
    np.testing.assert_array_equal(values["lesion"], values["probability"] >= 0.5)
    assert load(folder, "lesion").get_data_dtype() == np.uint8
    assert 0 < values["lesion"].mean() < 0.9
    np.testing.assert_allclose(
        values["asymmetry"], values["pathological"] + values["anatomical"], atol=0.05
    )
    for name, part in (("salient", "anatomical"), ("compensated", "pathological")):
        np.testing.assert_allclose(values[name], values["ct"] + values[part], atol=0.1)


def check_facts(facts, folder):
    """What scan.json says fits the files."""
    held = Path(facts["scan"]).read_bytes()
    assert facts["identity"] == {"sha256": hashlib.sha256(held).hexdigest()}
    lesion = load(folder, "lesion")
    voxel_ml = np.prod(lesion.header.get_zooms()) / 1000
    assert facts["lesion_volume_ml"] == pytest.approx(
        lesion.get_fdata().sum() * voxel_ml, rel=1e-4
    )
    assert facts["uncertainty"] == "2 dropout samples"
    assert sum(lesion["volume_ml"] for lesion in facts["lesions"]) == pytest.approx(
        facts["lesion_volume_ml"]
    )
    uncertainty = load(folder, "uncertainty").get_fdata()
    assert 0 < uncertainty.max() <= 1
    weights = [lesion["volume_ml"] for lesion in facts["lesions"]]
    means = [lesion["uncertainty_bits"] for lesion in facts["lesions"]]
    inside = uncertainty[load(folder, "lesion").get_fdata() > 0]
    assert np.average(means, weights=weights) == pytest.approx(inside.mean(), abs=1e-3)
    for lesion in facts["lesions"]:
        assert -1000 < lesion["mean_hu"] <= 90
        assert {*lesion["slices"]} <= set(range(1, 200))
        assert lesion["side"] in {"left", "right", "both"}
    assert "as the file holds them" in facts["slices_counted"]
    assert facts["lesion_side"] in {"left", "right", "both"}
    assert facts["model"]["recipe"] == "tiny"
    assert Path(facts["model"]["run_folder"]).name == facts["model"]["run"]
    assert len(facts["model"]["stages_sha256"]) == 64
    assert facts["units"] == UNITS
    assert facts["window_hu"] == [0, 80]  # 1 of P is stored as 80
    for name in ("pathological", "anatomical", "salient", "compensated"):
        assert "not HU" in facts["units"][name]
    assert abs(facts["head_rotation_deg"]) <= 90
    assert {"flags", "quality", "versions", "purpose", "source"} <= set(facts)


def test_units_are_those_of_the_authors_code_where_it_is_followed():
    code = AsymmetrySettings(anatomical="positive_part", compensated="clipped")
    units = units_of(code)
    assert units["anatomical"].startswith("max(A - P, 0)")
    assert "at most the brighter" in units["compensated"]
    assert units_of(AsymmetrySettings()) == UNITS
    assert units["salient"] == UNITS["salient"]


def test_one_bad_scan_does_not_stop_the_others(
    tiny_run, raw_head, tmp_path, monkeypatch
):
    done = []
    original = module.predict_and_write

    def predict_and_write(system, path, folder, *how):
        if path == raw_head:
            done.append(path)
        else:
            original(system, path, folder, *how)

    monkeypatch.setattr(module, "predict_and_write", predict_and_write)
    broken = tmp_path / "broken.nii"
    broken.write_bytes(b"no image")
    missing = tmp_path / "missing.nii.gz"
    failures = predict_scans(tiny_run, [broken, missing, raw_head], tmp_path / "out")
    assert done == [raw_head]
    assert list(failures) == [broken, missing]
    assert all(str(path) in failure.sentence for path, failure in failures.items())
    assert not (tmp_path / "out").exists()


def test_an_unforeseen_error_names_its_scan_alone(tmp_path, monkeypatch):
    done = []

    def predict_and_write(_system, path, *_how):
        if path.name == "odd.nii":
            raise ZeroDivisionError("in the middle")
        done.append(path)

    monkeypatch.setattr(module, "predict_and_write", predict_and_write)
    monkeypatch.setattr(module, "load_system", lambda *_, **__: None)
    odd, fine = tmp_path / "odd.nii", tmp_path / "fine.nii"
    failures = predict_scans(tmp_path / "run", [odd, fine], tmp_path / "out")
    said = f"{odd} failed: ZeroDivisionError: in the middle"
    assert failures == {odd: module.Failure(said)}
    assert done == [fine]


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (UserError("the slices lie apart; mend them."), "the slices lie apart; mend"),
        (ZeroDivisionError("in the middle"), "{scan} failed: ZeroDivisionError: in"),
        (MemoryError(), "{scan}: memory ran out (the system gave no more); end other"),
    ],
)
def test_a_failed_scan_names_the_results_that_an_earlier_run_left(
    tmp_path, monkeypatch, error, start
):
    def predict_and_write(*_):
        raise error

    monkeypatch.setattr(module, "predict_and_write", predict_and_write)
    monkeypatch.setattr(module, "load_system", lambda *_, **__: None)
    old, new, out = tmp_path / "old.nii", tmp_path / "new.nii", tmp_path / "out"
    (out / "old").mkdir(parents=True)
    (out / "old" / "scan.json").write_text(json.dumps({"scan": str(old)}))
    failures = predict_scans(tmp_path / "run", [old, new], out)
    for scan, failure in failures.items():
        assert failure.sentence.startswith(start.format(scan=scan))
        assert ".;" not in failure.sentence
        assert failure.older_stay == (scan == old)
    stays = f"; results of an earlier run stay in {out / 'old'}."
    assert failures[old].sentence.endswith(stays)
    assert "an earlier run" not in failures[new].sentence
    assert (out / "old" / "scan.json").is_file()


def test_results_that_are_new_but_for_dicom_are_no_older_ones(tmp_path):
    (tmp_path / "scan.json").touch()
    lacking = module.Failure("no DICOM.", all_but_dicom=True)
    assert lacking.beside(tmp_path) == lacking


def test_a_disk_that_has_gone_stops_no_other_scan(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "is_file", refuse)
    failure = module.Failure("it failed.")
    assert failure.beside(tmp_path) == failure


def test_a_scan_is_known_by_what_it_holds(tmp_path, raw_head):
    case = tmp_path / "case_7"
    case.mkdir()
    shutil.copy(raw_head, case / "ct.nii.gz")
    wanted = {"sha256": hashlib.sha256(raw_head.read_bytes()).hexdigest()}
    assert identity_of(read_scan(raw_head), raw_head) == wanted
    assert identity_of(read_scan(case), case) == wanted


def test_a_series_is_known_by_its_uid_and_by_nothing_of_the_patient(tmp_path):
    folder = tmp_path / "series"
    (first, *_) = write_series(folder, head_of_blocks(10))
    wanted = {"series_instance_uid": pydicom.dcmread(first).SeriesInstanceUID}
    scan = read_scan(folder)
    assert identity_of(scan, folder) == wanted
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    assert identity_of(read_scan(archive), archive) == wanted
    nameless = [
        replace(frame, header=frame.header | {"SeriesInstanceUID": ""})
        for frame in scan.frames
    ]
    scan = replace(scan, frames=tuple(nameless))
    assert identity_of(scan, folder) == {}
    packed = {"sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}
    assert identity_of(scan, archive) == packed


@pytest.mark.parametrize(
    ("scans", "names"),
    [
        (["0001/CT", "0002/CT", "other.nii"], ["0001", "0002", "other"]),
        (["a/1/CT/s", "a/2/CT/s"], ["1", "2"]),
        (["p1/s1/CT", "p1/s2/CT", "p2/s1/CT"], ["p1_s1", "p1_s2", "p2_s1"]),
        (["a/x/CT", "a/CT"], ["x", "CT"]),
        (["a/x/ct.nii.gz", "b/x/dicom"], ["a", "b"]),
        (["a/scan.nii", "b/scan.nii.gz"], ["a", "b"]),
        (
            [f"s{one}/{when}/ct.nii.gz" for one in (1, 2) for when in ("d0", "d7")],
            ["s1_d0", "s1_d7", "s2_d0", "s2_d7"],
        ),
        (["p1/d0/dicom", "p1/d7/dicom", "p2/d0/dicom"], ["p1_d0", "p1_d7", "p2_d0"]),
        (["p1/p2/dicom", "p2/d0", "p3/d0"], ["p1_p2", "p2_d0", "p3_d0"]),
        (["p1/d0/ct.nii.gz", "p1/d7.nii", "other.nii"], ["d0", "d7", "other"]),
    ],
)
def test_scans_of_one_name_are_told_apart_by_their_folders(scans, names):
    assert result_names([Path(scan) for scan in scans]) == names


def test_scans_that_nothing_tells_apart_are_refused(tmp_path):
    one, two = tmp_path / "a" / "scan.nii", tmp_path / "a" / "scan.nii.gz"
    with pytest.raises(UserError, match=r"a/scan.nii and .*a/scan.nii.gz would both"):
        result_folders([one, two], tmp_path)
    case = tmp_path / "case_7" / "ct.nii.gz"
    assert result_folders([one, case], Path("out")) == {
        one: Path("out/scan"),
        case: Path("out/case_7"),
    }


def test_results_of_another_scan_are_not_replaced(tmp_path):
    (tmp_path / "out" / "CT").mkdir(parents=True)
    facts = tmp_path / "out" / "CT" / "scan.json"
    first, second = (tmp_path / name / "CT" for name in ("one", "two"))
    first.mkdir(parents=True)
    facts.write_text(json.dumps({"scan": str(first)}))
    assert result_folders([first], tmp_path / "out") == {first: tmp_path / "out" / "CT"}
    with pytest.raises(UserError, match=r"holds the results of .*one/CT, which those"):
        result_folders([second], tmp_path / "out")
    first.rename(tmp_path / "moved")
    assert result_folders([second], tmp_path / "out")
    facts.write_text("{")
    assert result_folders([second], tmp_path / "out")


def test_another_spelling_of_a_scan_is_no_other_scan(tmp_path, monkeypatch):
    (tmp_path / "out" / "CT").mkdir(parents=True)
    (tmp_path / "data" / "CT").mkdir(parents=True)
    facts = tmp_path / "out" / "CT" / "scan.json"
    facts.write_text(json.dumps({"scan": str(tmp_path / "data" / "CT")}))
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path / "out")
    for scan in (Path("../data/CT"), Path("../link/CT"), tmp_path / "link" / "CT"):
        assert result_folders([scan], tmp_path / "out") == {scan: facts.parent}


@pytest.mark.parametrize("scan", ["/dicom", "/ct.nii.gz", "/"])
def test_a_scan_at_the_root_has_a_folder_of_its_own(tmp_path, scan):
    (folder,) = result_folders([Path(scan)], tmp_path / "out").values()
    assert folder.parent == tmp_path / "out"


def test_where_nothing_can_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_system", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "a.nii").touch()
    (tmp_path / "file").touch()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "scan.json").touch()

    def said(out):
        with pytest.raises(UserError) as stop:
            predict_scans(tmp_path / "run", [tmp_path / "a.nii"], out)
        return str(stop.value)

    assert "file could not be written (Not a directory)" in said(tmp_path / "file")
    assert "results holds the results of a scan" in said(tmp_path / "results")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    assert "could not be written (Permission denied)" in said(tmp_path / "out")
    monkeypatch.setattr(module, "check_writable", lambda _: None)
    assert "could not be read (Permission denied)" in said(tmp_path / "out")


def test_what_a_kill_left_half_written_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_system", lambda *_, **__: None)
    monkeypatch.setattr(module, "predict_and_write", lambda *_: None)
    for name in (".123.a", ".123.b"):
        (tmp_path / "out" / name).mkdir(parents=True)
    predict_scans(tmp_path / "run", [tmp_path / "a.nii"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".123.b"]


def test_sigterm_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    (tmp_path / "a.nii").touch()

    def predict_and_write(_system, _path, folder, *_):
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(module, "load_system", lambda *_, **__: None)
    monkeypatch.setattr(module, "predict_and_write", predict_and_write)
    monkeypatch.setattr("adn_jax.cli.predict.spread_scans", lambda _: None)
    command = [str(tmp_path / "run"), str(tmp_path / "a.nii"), *out_of(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        main(["predict", *command])
    assert stop.value.code == 128 + signal.SIGTERM
    assert "stopped; the same command begins anew." in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_the_lesion_is_that_of_the_probability_as_it_was():
    values = np.linspace(0.34, 0.51, 20_001, dtype=np.float32).reshape(-1, 1, 1)
    for threshold in (0.5, 0.35, 0.4321):
        lesion, stored = module.lesion_of(values, threshold).values()
        np.testing.assert_array_equal(lesion, values >= threshold)
        np.testing.assert_array_equal(lesion, stored >= threshold)
        assert abs(stored - values).max() <= 1 / 1024
        steps = stored * 1024
        np.testing.assert_array_equal(steps, np.rint(steps))


def test_nothing_but_older_results_is_replaced(tmp_path):
    case = tmp_path / "data" / "case_7"
    (case / "dicom").mkdir(parents=True)
    (case / "ct.nii.gz").write_bytes(b"scan")
    for scan in (case / "ct.nii.gz", case, case / "dicom"):
        with pytest.raises(UserError, match=r"would replace .*holds the scan itself"):
            result_folders([scan], tmp_path / "data")
    (tmp_path / "notes").mkdir()
    scan, folder = Path("notes.nii.gz"), {Path("notes.nii.gz"): tmp_path / "notes"}
    assert result_folders([scan], tmp_path) == folder
    (tmp_path / "notes" / "ct.nii.gz").write_bytes(b"a scan of one's own")
    with pytest.raises(UserError, match=r"was not written by .*no scan\.json"):
        result_folders([scan], tmp_path)
    (tmp_path / "notes" / "scan.json").write_text("{}")
    (tmp_path / "notes" / ".DS_Store").write_bytes(b"")
    assert result_folders([scan], tmp_path) == folder
    (tmp_path / "notes" / "corrected.nii.gz").write_bytes(b"by hand")
    with pytest.raises(UserError, match=r"holds corrected.nii.gz, not written by this"):
        result_folders([scan], tmp_path)
    (tmp_path / "notes").rename(tmp_path / "kept")
    (tmp_path / "notes").write_text("text")
    with pytest.raises(UserError, match="notes is a file"):
        result_folders([scan], tmp_path)
