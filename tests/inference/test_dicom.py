"""Results as DICOM objects, read back by pydicom, highdicom, SimpleITK and us."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from scipy.spatial import cKDTree

from adn_jax.errors import UserError
from adn_jax.inference import dicom as module
from adn_jax.inference.dicom import (
    DICOM_FILES,
    MAX_FRACTIONAL_VALUE,
    Found,
    check_highdicom,
    check_series,
    taken_volume_ml,
    write_dicom,
)
from adn_jax.scans.dicom.segmentation import read_segmentation
from adn_jax.scans.read import read_scan
from tests.scans.dicom.files import head_of_blocks, save, write_enhanced, write_series
from tests.scans.dicom.test_segmentation import UNEVEN_MM, make_series

KINDS = ["straight", "tilted and uneven"]


def found_of(shape, empty=False):
    """A lesion in two parts, with clean slices between them."""
    probability = np.zeros(shape, np.float32)
    if not empty:
        drawn = np.random.default_rng(0).random((20, 14, 3), dtype=np.float32)
        probability[18:38, 30:44, 2:5] = drawn
        probability[20:24, 12:20, shape[2] - 2] = 0.75
    lesion = (probability >= 0.5).astype(np.uint8)
    return Found(lesion, probability, "demo", "run", 0.5)


@pytest.fixture(params=KINDS)
def written(request, tmp_path):
    """A series, what was found in it, and the objects that were written."""
    series = make_series(tmp_path / "series", request.param)
    scan = series.scan
    shape = scan.image.shape if scan.taken is None else scan.taken.values.shape
    found = found_of(shape)
    facts = write_dicom(tmp_path / "dicom", scan, found)
    return SimpleNamespace(
        scan=scan,
        files=series.files,
        found=found,
        facts=facts,
        folder=tmp_path / "dicom",
        kind=request.param,
    )


def slice_uids(scan):
    return [frame.header["SOPInstanceUID"] for frame in scan.frames]


def as_rows(values):
    """Values of a stack as its files have them: (slice, row, column)."""
    return values.transpose(2, 1, 0)[:, ::-1]


def pixels_of(path, uids):
    """Frames of the only segment, by the images that they refer to."""
    segmentation = highdicom.seg.segread(path)
    frames = segmentation.get_pixels_by_source_instance(uids, combine_segments=False)
    return frames[..., 0]


def test_masks_and_probabilities_come_back_voxel_by_voxel(written):
    uids = slice_uids(written.scan)
    lesion = pixels_of(written.folder / DICOM_FILES["lesion"], uids)
    np.testing.assert_array_equal(lesion, as_rows(written.found.lesion))
    path = written.folder / DICOM_FILES["probability"]
    probability = pixels_of(path, uids[::-1])[::-1]
    np.testing.assert_allclose(
        probability,
        as_rows(written.found.probability),
        atol=0.501 / MAX_FRACTIONAL_VALUE,
    )


def test_every_frame_lies_where_its_image_does(written):
    """Nothing of highdicom: the elements themselves."""
    sources = {}
    for path in written.files:
        source = pydicom.dcmread(path)
        sources[source.SOPInstanceUID] = source
    dataset = pydicom.dcmread(written.folder / DICOM_FILES["lesion"])
    groups = dataset.PerFrameFunctionalGroupsSequence
    assert dataset.NumberOfFrames == len(groups) == len(sources)
    wanted = dict(
        zip(slice_uids(written.scan), as_rows(written.found.lesion), strict=True)
    )
    for group, pixels in zip(groups, dataset.pixel_array, strict=True):
        image = group.DerivationImageSequence[0].SourceImageSequence[0]
        uid = image.ReferencedSOPInstanceUID
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert position == sources.pop(uid).ImagePositionPatient
        np.testing.assert_array_equal(pixels, wanted[uid])
    assert not sources


def test_objects_say_what_they_are(written):
    source = pydicom.dcmread(written.files[0])
    for name, syntax in (
        ("lesion", ExplicitVRLittleEndian),
        ("probability", RLELossless),
    ):
        one = pydicom.dcmread(written.folder / DICOM_FILES[name])
        assert one.file_meta.TransferSyntaxUID == syntax
        assert one.ContentDescription == "For research; not for diagnosis"
        assert one.StudyInstanceUID == source.StudyInstanceUID
        assert one.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert one.SeriesInstanceUID != source.SeriesInstanceUID
        (segment,) = one.SegmentSequence
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "55641003"
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert one.SegmentationFractionalType == "PROBABILITY"
    assert one.MaximumFractionalValue == MAX_FRACTIONAL_VALUE


def test_the_report_refers_to_the_segment_and_tells_its_volume(written):
    report = highdicom.sr.srread(written.folder / DICOM_FILES["report"])
    assert report.VerificationFlag == "UNVERIFIED"
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    (volume,) = group.get_measurements()
    assert volume.unit.value == "mL"
    assert volume.value == pytest.approx(written.facts["lesion_volume_ml"])
    lesion = pydicom.dcmread(written.folder / DICOM_FILES["lesion"])
    segment, series = group.reference_type and group.referenced_segment
    assert segment.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == (
        lesion.SOPInstanceUID
    )
    assert pydicom.dcmread(written.files[0]).SeriesInstanceUID == series.UID
    assert group.tracking_uid == lesion.SegmentSequence[0].TrackingUID


def comments_of(path):
    """Texts of the report's only group of measurements; nothing of highdicom."""
    report = pydicom.dcmread(path)
    (groups,) = containers(report, "126010")
    (group,) = containers(groups, "125007")
    return [one.TextValue for one in items_of(group, "121106")]


def items_of(dataset, code):
    """The content items of this name."""
    return [
        item
        for item in dataset.ContentSequence
        if "ConceptNameCodeSequence" in item
        and item.ConceptNameCodeSequence[0].CodeValue == code
    ]


def containers(dataset, code):
    return [one for one in items_of(dataset, code) if one.ValueType == "CONTAINER"]


DOUBTS = (
    "no mid-line found: the brain mirrors well about no line; look at the brain mask "
    "and the orientation",
    "die Schichten fehlen: Gerät, 頭部",
)


def write_doubtful(tmp_path):
    """The report of a scan in which nothing is left, and much is doubtful."""
    scan = make_series(tmp_path / "series", "straight").scan
    found = found_of(scan.image.shape, empty=True)
    found = replace(found, threshold=0.35, left_out_ml=(0.4, 18.25, 2.0), flags=DOUBTS)
    write_dicom(tmp_path / "out", scan, found)
    return tmp_path / "out" / DICOM_FILES["report"]


def test_the_report_tells_what_makes_its_volume_doubtful(tmp_path):
    path = write_doubtful(tmp_path)
    assert comments_of(path) == [
        *DOUBTS,
        "lesions left out as too small or doubtful to count: 3, the largest of 18.2 mL",
        "threshold: 0.35",
    ]
    (group,) = highdicom.sr.srread(path).content.get_volumetric_roi_measurement_groups()
    assert group.get_measurements()[0].value == 0


def test_a_report_without_doubt_says_that_nothing_was_left_out(written):
    assert comments_of(written.folder / DICOM_FILES["report"]) == [
        "lesions left out as too small or doubtful to count: none",
        "threshold: 0.5",
    ]


def test_dcmqi_reads_the_volume_and_every_doubt(tmp_path):
    path = write_doubtful(tmp_path)
    program = Path(sys.executable).parent / "tid1500reader"
    command = [program, "--inputDICOM", path, "--outputMetadata", tmp_path / "o.json"]
    subprocess.run(command, check=True, capture_output=True)
    (group,) = json.loads((tmp_path / "o.json").read_text())["Measurements"]
    assert [float(one["value"]) for one in group["measurementItems"]] == [0]
    said = [one["conceptValue"] for one in group["qualitativeEvaluations"]]
    assert {*DOUBTS} <= {one for one in said if isinstance(one, str)}


def test_volumes_count_each_slice_by_its_neighbours(written):
    pixels = written.found.lesion.sum(axis=(0, 1))
    thickness = np.full(10, 5.0)
    if "uneven" in written.kind:  # tilted slices are closer than the table moves
        gaps = np.diff(UNEVEN_MM) * np.cos(np.deg2rad(18.0))
        thickness = (np.r_[gaps[0], gaps] + np.r_[gaps, gaps[-1]]) / 2
    expected = 2.5**2 * pixels @ thickness / 1000
    assert taken_volume_ml(written.found.lesion, written.scan) == pytest.approx(
        expected
    )
    assert written.facts["evenly_spaced"] == (written.kind == "straight")
    assert written.facts["tilted"] == ("tilted" in written.kind)


def test_even_slices_of_a_tilted_gantry_are_even(tmp_path):
    scan = make_series(tmp_path / "series", "tilted").scan
    facts = write_dicom(tmp_path / "out", scan, found_of(scan.taken.values.shape))
    assert facts["evenly_spaced"]
    assert facts["tilted"]


def test_our_own_reader_takes_it_as_a_label(written):
    if written.scan.taken is None:
        pytest.skip("slices that are a regular grid are read in the tests of labels")
    path = written.folder / DICOM_FILES["lesion"]
    label, pixels = read_segmentation(path, written.scan.taken, {1})
    assert pixels[1] == np.count_nonzero(written.found.lesion)
    np.testing.assert_array_equal(label, written.found.lesion)


def test_volume_readers_see_all_slices_or_refuse(written):
    path = written.folder / DICOM_FILES["lesion"]
    image = SimpleITK.ReadImage(str(path))
    assert image.GetSize() == written.found.lesion.shape
    voxels = SimpleITK.GetArrayFromImage(image)
    assert np.count_nonzero(voxels) == written.found.lesion.sum()
    segmentation = highdicom.seg.segread(path)
    if written.kind == "straight":
        assert image.GetSpacing() == (2.5, 2.5, 5.0)
        volume = segmentation.get_volume(combine_segments=False)
        assert volume.array.sum() == written.found.lesion.sum()
        assert volume.spacing == pytest.approx((5.0, 2.5, 2.5))
        return
    # ITK takes uneven slices for voxels of 1 mm: its places are wrong
    assert image.GetSpacing() == (1.0, 1.0, 1.0)
    with pytest.raises(RuntimeError, match="do not form a regularly-spaced volume"):
        segmentation.get_volume(combine_segments=False)


def test_dcmqi_puts_even_upright_slices_in_their_place(tmp_path):
    """3D Slicer opens DICOM SEG by it."""
    scan = make_series(tmp_path / "series", "straight").scan
    found = found_of(scan.image.shape)
    write_dicom(tmp_path / "out", scan, found)
    program = Path(sys.executable).parent / "segimage2itkimage"
    read = ["--inputDICOM", tmp_path / "out" / DICOM_FILES["lesion"], "-t", "nrrd"]
    command = [program, *read, "--outputDirectory", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.nrrd")
    image = SimpleITK.ReadImage(str(path))
    marked = np.argwhere(SimpleITK.GetArrayFromImage(image))[:, ::-1].tolist()
    places = [image.TransformIndexToPhysicalPoint(index) for index in marked]
    wanted = nib.affines.apply_affine(scan.image.affine, np.argwhere(found.lesion))
    ours, theirs = (
        wanted * [-1, -1, 1],
        np.array(places),
    )  # ITK counts to the left, back
    assert len(theirs) == len(ours)
    apart, _ = cKDTree(theirs).query(ours)
    assert apart.max() < 0.01


def test_nothing_found_is_written_too(tmp_path):
    scan = make_series(tmp_path / "series", "straight").scan
    found = found_of(scan.image.shape, empty=True)
    assert write_dicom(tmp_path / "out", scan, found)["lesion_volume_ml"] == 0
    lesion = pixels_of(tmp_path / "out" / DICOM_FILES["lesion"], slice_uids(scan))
    assert lesion.shape == (10, 64, 64)
    assert not lesion.any()


@pytest.mark.parametrize("thickness", [None, 0])
def test_slices_that_tell_no_thickness_are_as_thick_as_they_are_apart(
    tmp_path, thickness
):
    paths = write_series(tmp_path / "in", head_of_blocks(10), SliceThickness=thickness)
    scan = read_scan(paths[0].parent)
    found = found_of(scan.image.shape)
    write_dicom(tmp_path / "out", scan, found)
    for name in ("lesion", "probability"):
        one = pydicom.dcmread(tmp_path / "out" / DICOM_FILES[name])
        (shared,) = one.SharedFunctionalGroupsSequence
        assert shared.PixelMeasuresSequence[0].SliceThickness == 5.0
    lesion = pixels_of(tmp_path / "out" / DICOM_FILES["lesion"], slice_uids(scan))
    np.testing.assert_array_equal(lesion, as_rows(found.lesion))


ODD = {
    "PatientSex": ("U", "m"),
    "PatientBirthDate": ("00000000", "1950", "ANON"),
    "StudyTime": ("12:30:00", "noon"),
    "StudyDate": ("20260230",),
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
@pytest.mark.parametrize(
    ("keyword", "value"), [(name, one) for name in ODD for one in ODD[name]]
)
def test_a_value_that_an_object_may_not_have_is_left_empty(tmp_path, keyword, value):
    paths = write_series(tmp_path / "in", head_of_blocks(10), **{keyword: value})
    scan = read_scan(paths[0].parent)
    write_dicom(tmp_path / "out", scan, found_of(scan.image.shape))
    for file in DICOM_FILES.values():
        assert pydicom.dcmread(tmp_path / "out" / file).get(keyword) in {"", None}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("declared", "name"),
    [
        (("", "ISO 2022 IR 87"), "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (("", "ISO 2022 IR 149"), "Hong^Gildong=洪^吉洞=홍^길동"),
        (("ISO_IR 13", "ISO 2022 IR 87"), "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎"),
        ("ISO 2022 IR 100", "Müller^Jörg"),
        ("ISO-8859-1", "Müller^Jörg"),
        ("ISO_IR 100", "Müller^Jörg"),
        ("GB18030", "王^小东"),
        ("nonsense", "Mueller^Joerg"),
        (None, "Mueller^Joerg"),
    ],
)
def test_names_survive_every_set_of_characters(tmp_path, declared, name):
    tags = {"SpecificCharacterSet": declared, "PatientName": name}
    paths = write_series(tmp_path / "in", head_of_blocks(10), **tags)
    scan = read_scan(paths[0].parent)
    found = replace(found_of(scan.image.shape), run="läufe-模型")
    write_dicom(tmp_path / "out", scan, found)
    for file in DICOM_FILES.values():
        one = pydicom.dcmread(tmp_path / "out" / file)
        assert one.SpecificCharacterSet == "ISO_IR 192"
        assert str(one.PatientName) == name
        assert one.DeviceSerialNumber == "läufe-模型"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "within",
    [
        (),
        ("RequestAttributesSequence",),
        ("RequestAttributesSequence", "RequestedProcedureCodeSequence"),
    ],
)
def test_an_element_that_nobody_can_read_stops_nothing(tmp_path, within):
    paths = write_series(
        tmp_path / "in",
        head_of_blocks(10),
        SpecificCharacterSet=("", "ISO 2022 IR 87"),
    )
    written, wanted = (
        b"\x18\x00\x45\x93" + vr + b"\x04\x00abcd" for vr in (b"LO", b"FD")
    )
    for path in paths:
        dataset = item = pydicom.dcmread(path)
        for sequence in within:
            setattr(item, sequence, [Dataset()])
            item = item[sequence].value[0]
        item.add_new("CTDIvol", "LO", "abcd")
        item.CodeMeaning = "山田"
        save(dataset, path)
        path.write_bytes(path.read_bytes().replace(written, wanted))

    def innermost(item):
        for sequence in within:
            (item,) = item[sequence].value
        return item

    with pytest.raises(BytesLengthException):
        _ = innermost(pydicom.dcmread(paths[0])).CTDIvol
    scan = read_scan(paths[0].parent)
    write_dicom(tmp_path / "out", scan, found_of(scan.image.shape))
    assert len(list((tmp_path / "out").iterdir())) == len(DICOM_FILES)
    left = innermost(module.read_sources(scan.frames, 5.0)[0])
    assert "CTDIvol" not in left
    assert left.CodeMeaning == "山田"


def test_a_long_name_of_a_run_is_cut(tmp_path):
    scan = make_series(tmp_path / "series", "straight").scan
    found = replace(found_of(scan.image.shape), run="joint.steps=" * 9, recipe="a\\b")
    write_dicom(tmp_path / "out", scan, found)
    one = pydicom.dcmread(tmp_path / "out" / DICOM_FILES["lesion"])
    assert one.DeviceSerialNumber == found.run[-64:]
    assert one.ManufacturerModelName == "a/b"


def test_frames_of_a_multi_frame_file(tmp_path):
    path = tmp_path / "series" / "enhanced.dcm"
    write_enhanced(path, head_of_blocks(12), [5.0 * z for z in range(12)])
    named = pydicom.dcmread(path)
    named.FrameOfReferenceUID = "1.2.3"
    save(named, path)
    scan = read_scan(path.parent)
    found = found_of(scan.image.shape)
    write_dicom(tmp_path / "out", scan, found)
    segmentation = highdicom.seg.segread(tmp_path / "out" / DICOM_FILES["lesion"])
    frames = segmentation.get_pixels_by_source_frame(
        named.SOPInstanceUID, range(1, 13), combine_segments=False
    )
    indices = [frame.index for frame in scan.frames]
    np.testing.assert_array_equal(frames[indices, ..., 0], as_rows(found.lesion))


def test_what_nothing_can_refer_to_is_refused(tmp_path, raw_head, monkeypatch):
    with pytest.raises(UserError, match="is no DICOM series, so that a DICOM result"):
        check_series(read_scan(raw_head), raw_head)
    series = make_series(tmp_path / "series", "straight")
    check_series(series.scan, tmp_path)
    found = found_of(series.scan.image.shape)
    for keyword, value, match in (
        ("SOPInstanceUID", "1.2.3", "share one SOPInstanceUID"),
        ("FrameOfReferenceUID", None, "have no FrameOfReferenceUID"),
    ):
        scan = changed(series, keyword, value)
        with pytest.raises(UserError, match=match):
            write_dicom(tmp_path / "out", scan, found)
        assert not (tmp_path / "out").exists()
    for path in series.files:
        Path(path).unlink()
    with pytest.raises(UserError, match="is an archive, and a DICOM result refers"):
        check_series(series.scan, tmp_path / "series.zip")
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs highdicom; .*'adn-jax\[dicom\]'"):
        check_highdicom()


def test_slices_with_a_study_each_have_no_dicom_result(tmp_path):
    hu = head_of_blocks(12)
    studies = [f"1.2.3.{z}" for z in range(len(hu))]
    write_series(tmp_path / "series", hu, StudyInstanceUID=studies)
    scan = read_scan(tmp_path / "series")
    with pytest.raises(UserError, match="are said to be of several studies"):
        write_dicom(tmp_path / "out", scan, found_of(scan.image.shape))


def changed(series, keyword, value):
    """The scan, with an element of all its files changed."""
    for path in series.files:
        dataset = pydicom.dcmread(path)
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
        save(dataset, path)
    return series.scan
