import json

import pytest

from adn_jax.errors import UserError
from adn_jax.scans.dicom.choice import choice_flags, choice_record, choose
from adn_jax.scans.dicom.headers import read_headers
from adn_jax.scans.dicom.series import find_series
from tests.scans.dicom.files import (
    head_of_blocks,
    uid,
    write_localiser,
    write_screen_shot,
    write_series,
)

HU = head_of_blocks()


def series_of(folder):
    return find_series(read_headers(sorted(folder.rglob("*.*"))))


def chosen_number(folder, wanted=""):
    return choose(series_of(folder), wanted, folder).facts["number"]


def refusal(folder, wanted=""):
    with pytest.raises(UserError) as caught:
        chosen_number(folder, wanted)
    assert str(folder) in str(caught.value)
    return str(caught.value)


WORSE = {
    "sagittal": (
        {"ImageOrientationPatient": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)},
        "it is not axial",
    ),
    "chest": (
        {"BodyPartExamined": "CHEST", "SeriesDescription": "Thorax"},
        "it shows another part of the body",
    ),
    "agent": ({"ContrastBolusAgent": "Ultravist 370"}, "contrast agent"),
    "name": ({"SeriesDescription": "CTA Head 0.75"}, "contrast agent"),
    "protocol": ({"ProtocolName": "AngioDSA"}, "contrast agent"),
    "derived": ({"ImageType": ("DERIVED", "SECONDARY", "MPR")}, "it was derived"),
    "kernel": ({"ConvolutionKernel": "H60s"}, "its kernel is for bone"),
    "ge bone": ({"ConvolutionKernel": "BONEPLUS"}, "its kernel is for bone"),
    "words": (
        {"ConvolutionKernel": None, "SeriesDescription": "Head BONE"},
        "its kernel is for bone",
    ),
}


@pytest.mark.parametrize("name", WORSE)
def test_a_worse_series_loses_though_it_has_more_slices(tmp_path, name):
    tags, reason = WORSE[name]
    tags = {key: [value] * 12 for key, value in tags.items() if value} | {
        key: value for key, value in tags.items() if not value
    }
    positions = [(-80.0 - 5 * index, -60.0, 0.0) for index in range(12)]
    if name == "sagittal":
        tags["ImagePositionPatient"] = positions
    write_series(tmp_path / "worse", head_of_blocks(12), number=1, **tags)
    write_series(tmp_path / "good", HU, number=2)
    found = series_of(tmp_path)
    chosen = choose(found, "", tmp_path)
    record = choice_record(found, chosen, "")
    assert record["chosen"] == "2"
    assert reason in record["why"]
    assert reason in record["series"][1]["against"]
    assert choice_flags(found, chosen, 0) == ()


def test_of_equal_series_the_one_with_most_slices_wins(tmp_path):
    write_series(tmp_path / "thick", HU[::2], z_mm=[0, 10, 20, 30], number=2)
    write_series(tmp_path / "more", HU, number=3)
    write_series(tmp_path / "less", HU[:6], number=4)
    found = series_of(tmp_path)
    record = choice_record(found, choose(found, "", tmp_path), "")
    assert record["chosen"] == "3"
    assert "series 4 (Head 5.0 H30s): it has 6 slices instead of 8" in record["why"]
    assert "it has fewer than 5 slices (4)" in record["why"]
    json.dumps(record)


def test_used_with_a_flag_where_nothing_better_is_there(tmp_path):
    write_series(tmp_path, HU, ContrastBolusAgent="yes", ConvolutionKernel="H60s")
    found = series_of(tmp_path)
    flags = choice_flags(found, choose(found, "", tmp_path), 0)
    assert len(flags) == 2
    assert "is used although it was taken with a contrast agent" in flags[0]
    assert "its kernel is for bone" in flags[1]


def test_a_series_by_number_or_description(tmp_path):
    write_series(tmp_path / "a", HU, number=2)
    write_series(tmp_path / "b", HU, number=12, SeriesDescription="Head Bone 2.0")
    write_localiser(tmp_path / "c")
    assert chosen_number(tmp_path) == "2"
    assert chosen_number(tmp_path, "12") == "12"
    assert chosen_number(tmp_path, "bone") == "12"
    several = refusal(tmp_path, "head")
    assert "more than one series" in several
    assert "2 (Head 5.0 H30s), 12 (Head Bone 2.0)" in several
    assert "no series" in refusal(tmp_path, "7")
    assert "cannot be used: it is a localiser" in refusal(tmp_path, "topogram")
    found = series_of(tmp_path)
    record = choice_record(found, choose(found, "12", tmp_path), "12")
    assert record["why"] == "asked for by '12'"
    assert record["series"][1]["against"] == "another series was asked for"


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "MR"}, "it is MR, no CT"),
        ({"Modality": None, "SOPClassUID": "1.2.3"}, "it is of unknown modality"),
        ({"ImagePositionPatient": None}, "no place in space"),
        ({"PixelSpacing": None}, "voxel size is not given"),
        ({"ImageOrientationPatient": (1, 0, 0, 1, 1, 0)}, "not at right angles"),
        ({"SamplesPerPixel": 3}, "it is a colour picture"),
    ],
)
def test_what_is_no_ct_volume_is_refused(tmp_path, tags, reason):
    write_series(tmp_path, HU, **tags)
    message = refusal(tmp_path)
    assert "holds no CT volume" in message
    assert reason in message


def test_screen_shots_and_single_slices_are_refused(tmp_path):
    write_screen_shot(tmp_path / "a.b")
    write_series(tmp_path, HU[:1])
    (tmp_path / "a.b" / "screen99").rename(tmp_path / "screen.dcm")
    message = refusal(tmp_path)
    assert "it is a secondary capture" in message
    assert "it has fewer than 5 slices (1)" in message


def test_several_patients_are_refused_and_several_studies_flagged(tmp_path):
    write_series(tmp_path / "a", HU, number=2)
    write_series(
        tmp_path / "b",
        HU[:7],
        number=3,
        StudyInstanceUID=uid("other"),
        StudyDate="20230101",
    )
    found = series_of(tmp_path)
    flags = choice_flags(found, choose(found, "", tmp_path), 0)
    assert "2 studies of this patient; the one used is number 2 by date" in flags[0]
    write_series(tmp_path / "c", HU, number=4, PatientID="another")
    assert "several patients" in refusal(tmp_path)
    assert chosen_number(tmp_path, "4") == "4"


def test_a_blank_patient_is_no_other_one(tmp_path):
    write_series(tmp_path / "a", HU, number=2)
    write_series(tmp_path / "b", HU[:7], number=3, PatientID="")
    assert chosen_number(tmp_path) == "2"


@pytest.mark.parametrize(
    "tags",
    [
        {"SeriesNumber": [2] * 5 + [3] * 3},
        {"StudyInstanceUID": [uid("a")] * 5 + [uid("b")] * 3},
    ],
    ids=["SeriesNumber", "StudyInstanceUID"],
)
def test_what_parts_one_series_is_named(tmp_path, tags):
    write_series(tmp_path, HU, **tags)
    found = series_of(tmp_path)
    chosen = max(found, key=lambda one: one.facts["slices"])
    flag = choice_flags(found, chosen, 0)[0]
    assert flag.endswith(f"left out (3): another {next(iter(tags))}")


def test_a_number_is_no_part_of_a_description(tmp_path):
    write_series(tmp_path / "a", HU, number=3, SeriesDescription="Brain 1.25 Hr68")
    assert "no series" in refusal(tmp_path, "2")
    assert chosen_number(tmp_path, "1.25") == "3"


def test_series_that_would_serve_as_well_are_told(tmp_path):
    for number, kv in ((3, 80), (4, 120)):
        uids = [uid("kv", number, index) for index in range(len(HU))]
        tags = {"SOPInstanceUID": uids, "SeriesInstanceUID": uid("kv", number)}
        write_series(tmp_path / str(number), HU, number=number, KVP=kv, **tags)
    found = series_of(tmp_path)
    chosen = choose(found, "", tmp_path)
    (flag,) = choice_flags(found, chosen, 0)
    assert flag.startswith("the series 4 ")
    assert flag.endswith("they differ in: KVP 120.0 instead of 80.0")
    assert choice_flags(found, chosen, 0, "3") == ()


def test_images_of_another_header_are_no_copies(tmp_path):
    """Some anonymisers give every image of a study one instance UID."""
    for name, agent in (("a", "Ultravist"), ("b", "")):
        write_series(
            tmp_path / name,
            HU,
            number=3 if agent else 4,
            SOPInstanceUID=uid("all"),
            SeriesInstanceUID=uid(name),
            ContrastBolusAgent=agent,
        )
    headers = read_headers(sorted(tmp_path.rglob("*.dcm")))
    assert (len(headers.frames), headers.copies) == (2 * len(HU), 0)
    assert chosen_number(tmp_path) == "4"
    again = [*sorted(tmp_path.rglob("*.dcm"))] * 2
    assert read_headers(again).copies == 2 * len(HU)


def test_one_number_for_two_series_does_not_mix_them(tmp_path):
    write_series(tmp_path / "a", HU)
    write_series(
        tmp_path / "b",
        HU,
        SeriesInstanceUID=uid("other"),
        SOPInstanceUID=[uid("other", index) for index in range(8)],
        SeriesDescription="Head bone",
    )
    assert [one.facts["slices"] for one in series_of(tmp_path)] == [8, 8]
    assert "more than one series" in refusal(tmp_path, "2")


def test_several_images_at_a_place_are_flagged(tmp_path):
    write_series(tmp_path, HU, AcquisitionNumber=2, first=9)
    write_series(tmp_path, HU, AcquisitionNumber=1)
    (series,) = series_of(tmp_path)
    (flag,) = choice_flags([series], series, 0)
    assert flag.startswith("there are up to 2 images at 8 of 8 places")


def test_damaged_files_are_flagged(tmp_path):
    write_series(tmp_path, HU)
    (series,) = series_of(tmp_path)
    assert choice_flags([series], series, 3) == ("damaged DICOM files, left out: 3",)
