import pytest

from adn_jax.scans.dicom.headers import read_headers
from adn_jax.scans.dicom.series import find_series
from tests.scans.dicom.files import (
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
        ("Head 5.0 H30s", None),
    ],
)
def test_names_tell_of_contrast(tmp_path, name, contrast):
    write_series(tmp_path, HU, SeriesDescription=name)
    assert series_of(tmp_path)[0].facts["contrast"] == contrast


def test_one_number_and_two_uids_are_two_series(tmp_path):
    write_series(tmp_path / "a", HU)
    write_series(
        tmp_path / "b",
        HU,
        SeriesInstanceUID=uid("other"),
        SOPInstanceUID=[uid("other", index) for index in range(8)],
    )
    assert [one.facts["slices"] for one in series_of(tmp_path)] == [8, 8]


def test_slices_with_a_study_each_are_one_series(tmp_path):
    """As SimpleITK writes them where it is told no study."""
    apart = [uid("study", index) for index in range(8)]
    write_series(tmp_path, HU, StudyInstanceUID=apart)
    (series,) = series_of(tmp_path)
    assert series.facts["slices"] == 8


def test_one_uid_in_two_studies_is_two_series(tmp_path):
    for study in ("one", "other"):
        write_series(
            tmp_path / study,
            HU,
            StudyInstanceUID=uid(study),
            SOPInstanceUID=[uid(study, index) for index in range(8)],
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
    assert (series.repeated, series.left_out, len(series.frames)) == (8, 8, 8)
    assert [frame.number("InstanceNumber") for frame in series.frames] == [*range(1, 9)]


@pytest.mark.parametrize(
    "tags",
    [
        {"PatientPosition": ["HFS"] * 4 + [""] * 4},
        {"PatientPosition": [None] * 4 + ["HFS"] * 4},
        {"RescaleType": ["HU"] * 4 + [None] * 4},
        {"RescaleType": [""] * 4 + ["HU"] * 4},
    ],
    ids=str,
)
def test_what_some_images_leave_blank_does_not_part_them(tmp_path, tags):
    write_series(tmp_path, HU, **tags)
    (series,) = series_of(tmp_path)
    assert series.facts["slices"] == 8


@pytest.mark.parametrize("unit", ["MGML", "Z_EFF", "ED", "OD"])
def test_other_units_than_hounsfield_are_no_scan(tmp_path, unit):
    write_series(tmp_path / "a", HU, number=2, RescaleType=unit)
    write_series(tmp_path / "b", HU, number=3, RescaleType="HU_MOD")
    assert [one.problem for one in series_of(tmp_path)] == [
        f"its values are no Hounsfield units but {unit} (Rescale Type)",
        "",
    ]


@pytest.mark.parametrize("words", ["Hounsfield Units", "H.U.", "NONE", "CT"])
def test_other_words_for_hounsfield_units_are_taken(tmp_path, words):
    write_series(tmp_path, HU, RescaleType=words)
    assert [one.problem for one in series_of(tmp_path)] == [""]


@pytest.mark.parametrize("modality", [None, "", "OT"])
def test_the_class_tells_of_ct_where_the_modality_does_not(tmp_path, modality):
    write_series(tmp_path, HU, Modality=modality)
    (series,) = series_of(tmp_path)
    assert series.problem == ""


def test_images_all_at_one_place_are_told(tmp_path):
    write_series(tmp_path, HU, z_mm=[0.0] * 8)
    (series,) = series_of(tmp_path)
    assert series.problem == "its 8 images all have the same Image Position"
