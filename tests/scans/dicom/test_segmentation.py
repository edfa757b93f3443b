"""Labels drawn on DICOM series as taken: DICOM SEG, and NIfTI of other programs."""

from typing import NamedTuple

import nibabel as nib
import numpy as np
import pydicom
import pytest

from adn_jax.datasets.raw import native_label, read_label, segmented_label
from adn_jax.errors import UserError
from adn_jax.inference.dicom import taken_volume_ml
from adn_jax.io.image import Image, write_image
from adn_jax.scans.dicom.straighten import taken_image
from adn_jax.scans.read import RawScan, read_scan
from tests.scans.dicom.files import uid, write_series

TWO_DISTANCES_MM = (0, 5, 10, 15, 20, 30, 40, 50, 60, 70)
"""Every second plane of the grid lies midway between two of the upper slices."""

UNEVEN_MM = (0, 5, 10, 15, 20, 26, 33, 40, 47, 54)

LESION_HU, BRAIN_HU = 2000, 30


class Series(NamedTuple):
    """A series whose lesion shines, so that the scan itself says where it lies."""

    scan: RawScan
    files: list
    lesion: np.ndarray
    """In the order of the files (z y x)."""

    @property
    def truth(self):
        """The lesion on the scan's grid: what goes the same way as the image."""
        return self.scan.image.voxels >= (LESION_HU + BRAIN_HU) / 2


def make_series(folder, kind, z_mm=UNEVEN_MM, lesion_slices=slice(3, 6)) -> Series:
    lesion = np.zeros((10, 64, 64), np.uint8)
    lesion[lesion_slices, 20:34, 40:48] = 1
    hu = np.full(lesion.shape, -1000)
    hu[:, 8:-8, 10:-10] = 800
    hu[:, 12:-12, 14:-14] = BRAIN_HU
    hu[lesion > 0] = LESION_HU
    files = write_series(
        folder,
        hu.astype(np.int16),
        z_mm=z_mm if "uneven" in kind else None,
        tilt_deg=18.0 if "tilted" in kind else 0.0,
    )
    return Series(read_scan(folder), files, lesion)


@pytest.fixture(params=["straight", "tilted", "uneven", "tilted and uneven"])
def series(request, tmp_path):
    return make_series(tmp_path / "series", request.param)


@pytest.fixture
def tilted(tmp_path):
    return make_series(tmp_path / "series", "tilted and uneven")


def write_seg(path, series, kind="BINARY", omit_empty_frames=True):
    """A segmentation of one segment, as highdicom writes it."""
    from highdicom.seg import Segmentation, SegmentDescription
    from highdicom.sr import CodedConcept

    described = SegmentDescription(
        segment_number=1,
        segment_label="infarct",
        segmented_property_category=CodedConcept("49755003", "SCT", "Abnormality"),
        segmented_property_type=CodedConcept("55641003", "SCT", "Infarct"),
        algorithm_type="MANUAL",
    )
    Segmentation(
        source_images=[complete(pydicom.dcmread(one)) for one in series.files],
        pixel_array=series.lesion.astype("f4" if kind == "FRACTIONAL" else "u1"),
        segmentation_type=kind,
        omit_empty_frames=omit_empty_frames,
        segment_descriptions=[described],
        series_instance_uid=uid("seg"),
        series_number=9,
        sop_instance_uid=uid("seg", 1),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="1",
        device_serial_number="0",
    ).save_as(path)
    return path


def complete(dataset):
    """What highdicom wants to copy of a source image."""
    for name in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(dataset, name, "")
    dataset.ReferringPhysicianName = ""
    return dataset


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_dicom_segmentation_lies_on_its_series(series, tmp_path, kind):
    path = write_seg(tmp_path / "lesion.dcm", series, kind)
    label, flags = read_label(path, series.scan, (1,))
    assert flags == ()
    np.testing.assert_array_equal(label.voxels > 0, series.truth)


def test_a_frame_that_marks_nothing_needs_no_slice(tmp_path):
    series = make_series(tmp_path / "series", "straight")
    path = write_seg(tmp_path / "lesion.dcm", series, omit_empty_frames=False)
    series.files[0].unlink()
    scan = read_scan(tmp_path / "series")
    label, _ = read_label(path, scan, (1,))
    np.testing.assert_array_equal(label.voxels > 0, series.truth[:, :, 1:])


def test_segments_that_do_not_count_are_left_out(tilted, tmp_path):
    path = write_seg(tmp_path / "lesion.dcm", tilted)
    label, flags = read_label(path, tilted.scan, (2,))
    assert not label.voxels.any()
    assert flags == ("no voxel of the label counts as infarct (2)",)


@pytest.mark.parametrize("number", [4, 6])
def test_a_segment_that_does_not_count_is_told(tilted, tmp_path, number):
    path = write_seg(tmp_path / "lesion.dcm", tilted)
    dataset = pydicom.dcmread(path)
    half = len(dataset.PerFrameFunctionalGroupsSequence) // 2
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        segment = pydicom.Dataset()
        segment.ReferencedSegmentNumber = number if index >= half else 1
        frame.SegmentIdentificationSequence = [segment]
    dataset.save_as(path)
    label, (flag,) = read_label(path, tilted.scan, (1, 2, 3, 5))
    assert label.voxels.any()
    assert flag.startswith(f"the value {number} of the label (")
    assert flag.endswith("does not count as infarct (1, 2, 3, 5)")


def test_a_converted_scan_takes_the_segmentation_of_its_series(tmp_path):
    series = make_series(tmp_path / "series", "straight")
    path = write_seg(tmp_path / "lesion.dcm", series)
    image = series.scan.image
    turn = nib.orientations.axcodes2ornt("SRP")
    file = nib.Nifti1Image(image.voxels, image.affine).as_reoriented(turn)
    file.to_filename(tmp_path / "ct.nii.gz")
    scan = read_scan(tmp_path / "ct.nii.gz")
    label, pixels = segmented_label(path, scan, (1,))
    assert pixels == {1: np.count_nonzero(series.truth)}
    np.testing.assert_array_equal(label.voxels > 0, scan.image.voxels > 1015)


def itk_series(files):
    """How ITK lays a series, as ITK-SNAP and Slicer show it."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(one) for one in files])
    return reader.Execute()


def write_itk(path, series, way=1):
    """The lesion as ITK-SNAP and Slicer write it."""
    import SimpleITK

    drawn = SimpleITK.GetImageFromArray(series.lesion[::way])
    drawn.CopyInformation(itk_series(series.files[::way]))
    SimpleITK.WriteImage(drawn, str(path))
    return path


@pytest.mark.parametrize("way", [1, -1])
def test_a_label_drawn_in_itk_lies_on_its_series(series, tmp_path, way):
    """Slices as taken, one regular grid in the header, whatever the gantry did."""
    path = write_itk(tmp_path / "lesion.nii.gz", series, way)
    label, _ = read_label(path, series.scan, (1,))
    np.testing.assert_array_equal(label.voxels > 0, series.truth)


@pytest.mark.parametrize("kind", ["uneven", "tilted and uneven"])
@pytest.mark.parametrize("write", [write_itk, write_seg])
def test_planes_midway_between_slices_keep_the_volume(tmp_path, kind, write):
    series = make_series(tmp_path / "s", kind, TWO_DISTANCES_MM, slice(6, 8))
    ending = "nii.gz" if write is write_itk else "dcm"
    label, _ = read_label(
        write(tmp_path / f"lesion.{ending}", series), series.scan, (1,)
    )
    drawn_ml = taken_volume_ml(series.lesion.transpose(2, 1, 0), series.scan)
    ml = label.voxels.sum() * np.prod(label.spacing_mm) / 1000
    assert ml == pytest.approx(drawn_ml, rel=0.03)


def test_a_label_of_other_slices_is_refused(tilted):
    place = taken_image(tilted.scan.taken, "scan")
    moved = place.affine.copy()
    moved[:3, 3] += 5
    label = Image(np.ones(place.shape, np.uint8), moved, "lesion label")
    with pytest.raises(UserError, match="lies neither on the straightened scan nor on"):
        native_label(label, tilted.scan, (1,))


def test_a_segmentation_of_another_place_is_refused(tilted, tmp_path):
    path = write_seg(tmp_path / "lesion.dcm", tilted)
    dataset = pydicom.dcmread(path)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [x + 3, y, z]
    dataset.save_as(path)
    with pytest.raises(UserError, match="marks segment 1 where the scan has no slice"):
        segmented_label(path, tilted.scan, (1,))


def test_what_is_no_segmentation_is_named(tilted, tmp_path):
    with pytest.raises(UserError, match="is CT Image Storage, no segmentation"):
        segmented_label(tilted.files[0], tilted.scan, (1,))
    (tmp_path / "lesion.dcm").write_bytes(b"no file of this kind")
    with pytest.raises(UserError, match="is no readable DICOM file"):
        segmented_label(tmp_path / "lesion.dcm", tilted.scan, (1,))


def test_taken_slices_begin_where_itk_begins_the_series(tilted, tmp_path):
    import SimpleITK

    write_image(tmp_path / "ct.nii.gz", taken_image(tilted.scan.taken, "ct"))
    ours = SimpleITK.ReadImage(str(tmp_path / "ct.nii.gz"))
    theirs = itk_series(tilted.files)
    assert ours.GetSize() == theirs.GetSize()
    for corner in ((0, 0, 0), (63, 0, 0), (0, 63, 0), (63, 63, 0)):
        place = theirs.TransformIndexToPhysicalPoint(corner)
        index = ours.TransformPhysicalPointToContinuousIndex(place)
        assert index[2] == pytest.approx(0, abs=1e-3)
        assert {round(one, 2) for one in index[:2]} <= {0, 63}
