import shutil

import numpy as np
import pydicom
import pytest

from adn_jax.errors import UserError
from adn_jax.scans.dicom.headers import Headers, read_headers, starts_as_dicom
from adn_jax.scans.dicom.series import find_series
from adn_jax.scans.dicom.volume import read_volume
from tests.scans.dicom.files import (
    head_of_blocks,
    write_dicomdir,
    write_dose_report,
    write_enhanced,
    write_series,
)

HU = head_of_blocks()


def test_place_and_words_of_a_classic_slice(tmp_path):
    paths = write_series(tmp_path, HU, tilt_deg=15.0)
    frames = read_headers(paths).frames
    assert [frame.path for frame in frames] == paths
    third = frames[2]
    assert third.position == (-80, -60, 10)
    np.testing.assert_allclose(third.orientation[3:], (0, 0.9659, 0.2588), atol=1e-4)
    assert (third.rows, third.columns, third.pixel_spacing_mm) == (64, 64, (2.5, 2.5))
    assert third.thickness_mm == 5
    assert third.header["ImageType"] == "ORIGINAL\\PRIMARY\\AXIAL"
    assert third.number("InstanceNumber") == 3


def test_frames_of_a_multi_frame_file(tmp_path):
    z_mm = [0, 5, 10, 20, 25, 30, 35, 40]
    write_enhanced(tmp_path / "a", HU, z_mm)
    frames = read_headers([tmp_path / "a"]).frames
    assert [frame.position for frame in frames] == [(-80, -60, z) for z in z_mm]
    assert frames[7].orientation == (1, 0, 0, 0, 1, 0)
    assert frames[7].pixel_spacing_mm == (2.5, 2.5)
    assert frames[7].thickness_mm == 5


def test_what_holds_no_image_is_passed_over(tmp_path):
    write_dose_report(tmp_path)
    write_dicomdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no image " * 100)
    (tmp_path / "empty").touch()
    headers = read_headers(sorted(tmp_path.iterdir()))
    assert (headers.frames, headers.damaged) == ((), 0)


def test_slices_that_share_one_instance_are_no_copies(tmp_path):
    write_series(tmp_path, HU, SOPInstanceUID="1.2.3")
    headers = read_headers(tmp_path.iterdir())
    assert (len(headers.frames), headers.copies) == (8, 0)


def test_copies_are_counted_and_left_out(tmp_path):
    for path in write_series(tmp_path, HU):
        shutil.copy(path, path.with_suffix(".copy"))
    headers = read_headers(sorted(tmp_path.iterdir()))
    assert (len(headers.frames), headers.copies) == (8, 8)


def test_old_files_without_preamble_are_read(tmp_path):
    paths = write_series(tmp_path, HU)
    for path in paths:
        path.write_bytes(path.read_bytes()[132:])
    assert all(starts_as_dicom(path) for path in paths)
    assert len(read_headers(paths).frames) == 8


@pytest.mark.parametrize(
    "tags",
    [
        {"ImagePositionPatient": None},
        {"ImagePositionPatient": (1.0, 2.0)},
        {"ImageOrientationPatient": None},
    ],
)
def test_missing_or_short_places_are_none(tmp_path, tags):
    frame = read_headers(write_series(tmp_path, HU[:1], **tags)).frames[0]
    assert frame.position is None or frame.orientation is None


def test_a_damaged_header_is_counted(tmp_path):
    first, second = write_series(tmp_path, HU[:2])
    content = first.read_bytes()
    place = content.index(b"DS") + 4
    at = content.index(b"-80.0", place)
    first.write_bytes(content[:at] + b"x!y?z" + content[at + 5 :])
    headers = read_headers([first, second])
    assert headers.damaged == 1
    assert [frame.path for frame in headers.frames] == [second]


def test_what_frames_of_a_multi_frame_file_say_of_themselves(tmp_path):
    write_enhanced(tmp_path / "a.dcm", HU, [5.0 * index for index in range(8)])
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    for index, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame, kernel = pydicom.Dataset(), pydicom.Dataset()
        frame.FrameType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
        kernel.ConvolutionKernel = "H60s" if index % 2 else "H30s"
        groups.CTImageFrameTypeSequence = [frame]
        groups.CTReconstructionSequence = [kernel]
        groups.FrameContentSequence[0].FrameAcquisitionNumber = index
    dataset.save_as(tmp_path / "a.dcm")
    frames = read_headers([tmp_path / "a.dcm"]).frames
    said = frames[3].header
    assert said["ImageType"] == "DERIVED\\PRIMARY\\VOLUME\\NONE"
    assert (said["ConvolutionKernel"], said["AcquisitionNumber"]) == ("H60s", "3")
    problems = {one.problem for one in find_series(Headers(frames))}
    assert problems == {"its file holds several volumes"}


def test_agents_that_a_multi_frame_file_names_by_codes(tmp_path):
    write_enhanced(tmp_path / "a.dcm", HU, [5.0 * index for index in range(8)])
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    agent = pydicom.Dataset()
    agent.CodeValue, agent.CodingSchemeDesignator = "C-B0322", "SRT"
    agent.CodeMeaning = "Iohexol"
    dataset.ContrastBolusAgentSequence = [agent]
    dataset.save_as(tmp_path / "a.dcm")
    frames = read_headers([tmp_path / "a.dcm"]).frames
    assert {frame.header["ContrastBolusAgent"] for frame in frames} == {"Iohexol"}
    assert find_series(Headers(frames))[0].facts["contrast"] is True


def test_a_folder_of_damaged_headers_is_refused_with_the_reason(tmp_path):
    for path in write_series(tmp_path, HU):
        path.write_bytes(path.read_bytes().replace(b"2.5\\2.5 ", b"2,5\\2,5 "))
    with pytest.raises(UserError, match=r"no DICOM file of .*\(001.dcm: .*2,5"):
        read_volume(tmp_path)
