import json
import shutil
from pathlib import Path

import pytest

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.data.cases import read_facts
from adn_jax.data.manifest import choose_splits
from adn_jax.datasets.aisd.case import AisdCase
from adn_jax.datasets.aisd.facts import TEST_IDS
from adn_jax.datasets.aisd.files import Copy, Inventory
from adn_jax.datasets.aisd.find import check_aisd, find_aisd, without
from adn_jax.datasets.raw import RefusedCase
from adn_jax.datasets.recognise import find_dataset, layout_of
from adn_jax.errors import UserError
from adn_jax.prepare.dataset import prepare_dataset
from tests.datasets.aisd.download import (
    ARTEFACT,
    DAMAGED,
    EMPTY_CT,
    EMPTY_LABEL,
    MISMATCH,
    NO_CT,
    NO_MASK,
    PACKED,
    PLAIN,
    TILTED,
    TRUNK,
    TURNED,
    TWICE,
    UNEVEN,
    fake_head,
    write_case,
)

SETTINGS = PrepareSettings(shape=(16, 48, 40), spacing_mm=(10.0, 4.5, 4.5))

TEST_CASES = {PLAIN, TILTED, UNEVEN, EMPTY_LABEL}


def find(folder, **reading):
    return find_aisd(folder, ReadSettings(**reading))


def reason(case) -> str:
    with pytest.raises(UserError) as caught:
        case.load(PrepareSettings(), ReadSettings())
    return str(caught.value)


def by_name(dataset):
    return {case.name: case for case in dataset.cases}


def test_the_download_is_recognised(download, packed):
    assert layout_of(download.folder) == layout_of(packed) == "aisd"
    assert find_dataset(download.folder).layout == "aisd"


def test_which_cases_are_used(download):
    dataset = find(download.folder)
    cases = by_name(dataset)
    assert set(cases) == set(download.heads) - {ARTEFACT, MISMATCH, TURNED}
    assert set(dataset.left_out) == {ARTEFACT, MISMATCH, TURNED}
    assert "artefacts (stroke-seg-ssl, " in dataset.left_out[ARTEFACT]
    assert {n for n, case in cases.items() if isinstance(case, RefusedCase)} == {
        *(NO_MASK, NO_CT)
    }
    assert "it has no masks; unpack mask.zip again" in reason(cases[NO_MASK])
    assert "it has no CT; download all of dicom-0 to dicom-3" in reason(cases[NO_CT])
    assert cases[EMPTY_CT].ct.archive == "dicom-2"
    assert cases[EMPTY_CT].fixed == ("the copy in dicom-0 is empty; dicom-2 is used",)
    assert cases[TWICE].ct.archive == "dicom-3"
    assert cases[PACKED].ct.path.name == f"{PACKED}.tar.gz"


@pytest.mark.parametrize(
    ("setting", "left_out"),
    [
        ("broken", {ARTEFACT, MISMATCH, TURNED}),
        ("cl-segnet", {TWICE, TRUNK, MISMATCH}),
        ("none", set()),
    ],
)
def test_what_is_left_out_is_a_choice(download, setting, left_out):
    dataset = find(download.folder, aisd_leave_out=setting)
    assert set(dataset.left_out) == left_out
    assert set(by_name(dataset)) == set(download.heads) - left_out


def test_a_case_without_any_slices_fails_alone(tmp_path):
    write_case(tmp_path, PLAIN, fake_head())
    write_case(tmp_path, EMPTY_CT, fake_head())
    for path in (tmp_path / "dicom-1" / EMPTY_CT / "CT").iterdir():
        path.unlink()
    cases = by_name(find(tmp_path))
    assert "its CT folder in dicom-1 is empty; download all" in reason(cases[EMPTY_CT])
    assert isinstance(cases[PLAIN], AisdCase)


def test_settings_reach_the_cases_from_the_top(tmp_path):
    write_case(tmp_path / "raw", ARTEFACT, fake_head())
    with pytest.raises(UserError, match=rf"are left out on purpose \({ARTEFACT}\)"):
        prepare_dataset(tmp_path / "raw", tmp_path / "out", SETTINGS, workers=1)
    manifest = prepare_dataset(
        tmp_path / "raw",
        tmp_path / "out",
        SETTINGS,
        workers=1,
        reading=ReadSettings(aisd_leave_out="none"),
    )
    assert manifest.cases == (ARTEFACT,)
    flags = read_facts(tmp_path / "out" / ARTEFACT).flags
    assert any(flag.startswith("AISD: artefacts (") for flag in flags)


def test_the_official_split(download):
    splits = find(download.folder).splits
    assert set(splits["test"]) == TEST_CASES
    others = set(download.heads) - TEST_CASES - {ARTEFACT, MISMATCH, TURNED}
    assert set(splits["train"]) == others


def copied(download, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(download.folder, folder)
    return folder


def test_a_split_beside_the_download_wins(download, tmp_path):
    folder = copied(download, tmp_path)
    (folder / "test.txt").write_text(f"{TWICE}\n{ARTEFACT}\n")
    assert find(folder).splits["test"] == [TWICE]
    given = {"train": [PLAIN, ARTEFACT], "validation": [UNEVEN], "test": [TILTED]}
    (folder / "splits.json").write_text(json.dumps(given))
    assert find(folder).splits == given | {"train": [PLAIN]}


@pytest.mark.parametrize("given", [["a"], {"train": 3}, None])
def test_what_is_no_split_is_left_to_the_check(given):
    assert without({"a": "broken"}, given) == given


def test_unknown_cases_in_the_list_of_test_cases_are_refused(tmp_path):
    write_case(tmp_path, PLAIN, fake_head())
    (tmp_path / "test.txt").write_text("0000001\n")
    with pytest.raises(UserError, match="names '0000001', which is no case"):
        choose_splits(find(tmp_path).splits, [PLAIN], tmp_path / "test.txt")


def test_png_alone(download, tmp_path):
    dataset = find(download.folder, aisd_images="png")
    cases = by_name(dataset)
    assert all(case.ct is None for n, case in cases.items() if n != NO_MASK)
    assert dataset.remarks[0] == "HU are guessed from 8-bit PNG"
    folder = copied(download, tmp_path)
    for part in folder.glob("dicom-*"):
        shutil.rmtree(part)
    assert all(
        case.ct is None for n, case in by_name(find(folder)).items() if n != NO_MASK
    )
    refused = by_name(find(folder, aisd_images="dicom"))[PLAIN]
    assert "it has no CT" in reason(refused)
    shutil.rmtree(folder / "image" / "image" / PLAIN)
    assert "it has no pictures" in reason(by_name(find(folder))[PLAIN])


def test_without_masks_there_is_nothing_to_do(tmp_path):
    write_case(tmp_path, PLAIN, fake_head())
    shutil.rmtree(tmp_path / "mask")
    with pytest.raises(UserError, match=r"holds no masks .* put AISD's mask\.zip"):
        find(tmp_path)


def test_packed_archives_are_named_with_the_way_out(packed):
    with pytest.raises(UserError) as caught:
        find(packed)
    message = str(caught.value)
    assert "holds dicom-0.tar.gz, which is packed; run `tar xf" in message
    assert "or add --aisd-unpack DIR" in message
    assert message.endswith("(an option of `adn prepare`).")
    assert (
        "`tar xf dicom-0.tar.gz && tar xf dicom-1.tar.gz && tar xf dicom-2.tar.gz && "
        "unzip -q dicom-3.zip -d dicom-3 && unzip -q image.zip -d image && "
        "unzip -q mask.zip -d mask`"
    ) in message


def test_the_packed_download_gives_the_same_cases(download, packed, tmp_path):
    ours = find(packed, aisd_unpack=str(tmp_path))
    theirs = find(download.folder)
    assert by_name(ours).keys() == by_name(theirs).keys()
    assert ours.splits == theirs.splits
    assert ours.left_out == theirs.left_out
    assert ours.remarks == theirs.remarks
    assert by_name(ours)[TWICE].fixed == by_name(theirs)[TWICE].fixed
    one = by_name(ours)[PLAIN].load(PrepareSettings(), ReadSettings())
    other = by_name(theirs)[PLAIN].load(PrepareSettings(), ReadSettings())
    assert one.lesion.voxels.tobytes() == other.lesion.voxels.tobytes()


def test_archives_may_go_once_they_are_unpacked(packed, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(packed, raw)
    before = find(raw, aisd_unpack=str(tmp_path / "unpacked"))
    for path in raw.glob("dicom-*"):
        path.unlink()
    after = find(raw, aisd_unpack=str(tmp_path / "unpacked"))
    assert by_name(after).keys() == by_name(before).keys()
    assert after.remarks == before.remarks


def test_png_alone_needs_no_dicom_unpacked(packed, tmp_path):
    find(packed, aisd_images="png", aisd_unpack=str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"image", "mask"}


def test_what_is_said_of_the_download(download):
    remarks = find(download.folder).remarks
    assert remarks[0] == "HU are read from DICOM"
    assert remarks[1].startswith("cases: 16, but 398 are known (stroke-seg-ssl, ")
    assert remarks[2].startswith("cases of the training set: 12, but 346 are known")
    assert remarks[3].startswith("cases of the test set: 4, but 52 are known")
    assert remarks[4:] == (
        f"cases without masks: 1 ({NO_MASK})",
        f"cases without CT: 1 ({NO_CT})",
        f"{MISMATCH} has 13 PNG slices, but 8 files of CT in dicom-1",
    )


def test_slices_are_counted_where_nothing_is_packed(download, tmp_path):
    folder = copied(download, tmp_path)
    for name in (PACKED, DAMAGED):
        (folder / "dicom-1" / f"{name}.tar.gz").unlink()
    remarks = " ".join(find(folder).remarks)
    assert "CT slices: 176, but 10962 are known" in remarks
    assert "slices of the shortest CT: 8, but 11 are known" in remarks
    assert "slices of the longest CT: 36, but 63 are known" in remarks


def test_the_whole_download_agrees_with_the_known_counts():
    names = [*TEST_IDS, *(f"9{index:06d}" for index in range(346))]
    slices = [11, 63, *[27] * 200, *[28] * 196]
    copies = {
        name: (Copy("dicom-0", Path("CT"), count),)
        for name, count in zip(names, slices, strict=True)
    }
    assert check_aisd(Inventory({}, {}, copies)) == (
        "cases: 398, as known",
        "cases of the training set: 346, as known",
        "cases of the test set: 52, as known",
        "CT slices: 10962, as known",
        "slices of the shortest CT: 11, as known",
        "slices of the longest CT: 63, as known",
    )
