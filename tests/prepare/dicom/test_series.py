import pytest

from adn_jax.prepare.dicom.headers import read_headers
from adn_jax.prepare.dicom.series import find_series, has_contrast, is_head, is_sharp
from tests.prepare.dicom.files import (
    head_of_blocks,
    uid,
    write_enhanced,
    write_localiser,
    write_series,
)

HU = head_of_blocks()


def series_of(folder):
    return find_series(read_headers(sorted(folder.rglob("*.*"))))


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("Head without contrast", False),
        ("NCCT Head", False),
        ("Native CTA planning", False),
        ("Head C+", True),
        ("Carotis CTA 0.6", True),
        ("CT perfusion 4D", True),
        ("Head 5.0 H30s", False),
    ],
)
def test_names_tell_of_contrast(tmp_path, name, contrast):
    write_series(tmp_path, HU, SeriesDescription=name)
    assert series_of(tmp_path)[0].facts["contrast"] == contrast


@pytest.mark.parametrize(
    ("kernel", "sharp"),
    [
        ("H30s", False),
        ("J40s\\3", False),
        ("Hr68h", True),
        ("STANDARD", False),
        ("BONEPLUS", True),
        ("FC68", False),
        ("FC30", True),
        ("UB", False),
        ("YC", True),
        ("", False),
    ],
)
def test_kernels_of_the_makers(kernel, sharp):
    assert is_sharp(kernel, "") == sharp


@pytest.mark.parametrize(
    ("texts", "head"),
    [
        (("HEAD 5.0", "NECK"), True),
        (("NECK 3.0", "HEAD"), False),
        (("", "HEAD"), True),
        (("AXIAL 5MM", "", "SCHÄDEL NATIV"), True),
        (("AXIAL 5MM", "", ""), None),
        (("THORAX", ""), False),
    ],
)
def test_the_most_special_text_tells_of_a_head(texts, head):
    assert is_head(*texts) is head


def test_one_number_and_two_uids_are_two_series(tmp_path):
    write_series(tmp_path / "a", HU)
    write_series(
        tmp_path / "b",
        HU,
        SeriesInstanceUID=uid("other"),
        SOPInstanceUID=[uid("other", index) for index in range(8)],
    )
    assert [one.facts["slices"] for one in series_of(tmp_path)] == [8, 8]


def test_views_of_a_localiser_are_apart(tmp_path):
    write_localiser(tmp_path)
    found = series_of(tmp_path)
    assert [one.problem for one in found] == ["it is a localiser"] * 2


def test_a_file_of_several_volumes_cannot_be_used(tmp_path):
    write_enhanced(tmp_path / "a.dcm", HU, [0.0, 5, 10, 15, 20, 25, 0, 5])
    (series,) = series_of(tmp_path)
    assert series.problem == "its file holds several volumes"


def test_slices_are_ordered_by_position(tmp_path):
    heights = [15.0, 0, 5, 35, 10, 30, 20, 25]
    write_series(tmp_path, HU, z_mm=heights)
    (series,) = series_of(tmp_path)
    assert [frame.position[2] for frame in series.frames] == sorted(heights)
    assert series.facts["distance_mm"] == 5
    assert series.files == [frame.path for frame in series.frames]


def test_of_several_images_at_a_place_the_first_is_kept(tmp_path):
    write_series(tmp_path, HU, AcquisitionNumber=2, first=9)
    write_series(tmp_path, HU, AcquisitionNumber=1)
    (series,) = series_of(tmp_path)
    assert (series.repeated, series.volumes, len(series.frames)) == (8, 2, 8)
    assert [frame.number("InstanceNumber") for frame in series.frames] == [*range(1, 9)]


@pytest.mark.parametrize(
    ("texts", "contrast"),
    [
        (("CT HEAD WITHOUT THEN WITH CONTRAST",), True),
        (("POST CONTRAST AXIAL CT HEAD W/O & W",), True),
        (("POST CONTRAST", "HEAD W/WO"), True),
        (("HEAD W/WO",), True),
        (("NORMAL HEAD", "HEAD WITH CONTRAST"), True),
        (("HEAD C+",), True),
        (("HEAD WITHOUT CONTRAST", "CTA HEAD"), False),
        (("NON-CONTRAST HEAD",), False),
        (("NONCON",), False),
        (("HEAD W/O",), False),
        (("CTA NATIV",), False),
        (("HEAD 5.0 H30S", "HEADSEQ"), False),
    ],
)
def test_the_first_text_that_tells_decides_on_contrast(texts, contrast):
    assert has_contrast("", *texts) is contrast
    assert has_contrast("OMNIPAQUE", *texts)
