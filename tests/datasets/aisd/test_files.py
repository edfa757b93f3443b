from pathlib import Path

import pytest

from adn_jax.datasets.aisd.files import (
    Copy,
    choose_copy,
    ct_files,
    looks_like_aisd,
    part_of,
    take_inventory,
)
from tests.datasets.aisd.download import (
    DAMAGED,
    EMPTY_CT,
    MISMATCH,
    MRI,
    NO_CT,
    NO_MASK,
    PACKED,
    PLAIN,
    TWICE,
)


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_the_whole_download(download):
    inventory = take_inventory([download.folder])
    assert set(inventory.names) == set(download.heads)
    assert set(inventory.masks) == set(download.heads) - {NO_MASK}
    assert set(inventory.pictures) == set(download.heads)
    assert set(inventory.copies) == set(download.heads) - {NO_CT}
    found = {
        name: [(copy.archive, copy.slices) for copy in inventory.copies[name]]
        for name in (PLAIN, TWICE, EMPTY_CT, PACKED, DAMAGED, MISMATCH, MRI)
    }
    assert found == {
        PLAIN: [("dicom-0", 12)],
        TWICE: [("dicom-0", 6), ("dicom-3", 12)],
        EMPTY_CT: [("dicom-0", 0), ("dicom-2", 12)],
        PACKED: [("dicom-1", None)],
        DAMAGED: [("dicom-1", None)],
        MISMATCH: [("dicom-1", 8)],
        MRI: [("dicom-1", 12)],
    }


@pytest.mark.parametrize("nested", ["", "image", "image/image"])
def test_folders_in_folders(tmp_path, nested):
    touch(tmp_path / "image" / nested / PLAIN / "000.png")
    assert set(take_inventory([tmp_path]).pictures) == {PLAIN}


@pytest.mark.parametrize("place", ["dicom-2", "dicom/dicom-2", "dicom-2/dicom-2"])
def test_dicom_folders_in_folders(tmp_path, place):
    touch(tmp_path / place / PLAIN / "CT" / "001.dcm")
    (copy,) = take_inventory([tmp_path]).copies[PLAIN]
    assert (copy.archive, copy.slices) == ("dicom-2", 1)


def test_the_tenth_archive_comes_after_the_second(tmp_path):
    for number in (10, 2):
        touch(tmp_path / f"dicom-{number}" / PLAIN / "CT" / "001.dcm")
    copies = take_inventory([tmp_path]).copies[PLAIN]
    assert [copy.archive for copy in copies] == ["dicom-2", "dicom-10"]


def test_a_mac_leaves_files_that_are_no_slices(tmp_path):
    touch(tmp_path / "mask" / "__MACOSX" / PLAIN / "000.png")
    touch(tmp_path / "mask" / PLAIN / "._000.png")
    touch(tmp_path / "dicom-0" / PLAIN / "CT" / ".DS_Store")
    inventory = take_inventory([tmp_path])
    assert inventory.masks == {}
    assert inventory.copies[PLAIN][0].slices == 0
    assert ct_files(tmp_path / "nothing") == []


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("image.zip", "image"),
        ("mask", "mask"),
        ("dicom-0.tar.gz", "dicom-0"),
        ("dicom-3.zip", "dicom-3"),
        ("dicom-1.tgz", "dicom-1"),
        ("images", None),
        ("dicom", None),
        ("image.png", None),
    ],
)
def test_parts_by_name(name, part):
    assert part_of(Path(name)) == part


@pytest.mark.parametrize(
    "sign", ["image.zip", "mask.zip", "dicom-0.tar.gz", f"dicom-1/{PLAIN}/CT/001.dcm"]
)
def test_signs_of_the_download(tmp_path, sign):
    assert not looks_like_aisd(tmp_path)
    touch(tmp_path / sign)
    assert looks_like_aisd(tmp_path)


def test_pictures_and_masks_are_a_sign_together(tmp_path):
    touch(tmp_path / "image" / PLAIN / "000.png")
    assert not looks_like_aisd(tmp_path)
    touch(tmp_path / "mask" / PLAIN / "000.png")
    assert looks_like_aisd(tmp_path)


def test_other_data_sets_do_not_look_like_it(tmp_path):
    touch(tmp_path / "image" / "ct.nii.gz")
    touch(tmp_path / "mask" / "dicom" / "001.dcm")
    touch(tmp_path / "sub-1" / "ct" / "sub-1_ct.nii.gz")
    assert not looks_like_aisd(tmp_path)


def test_of_several_copies_the_last_that_holds_slices_counts():
    empty = Copy("dicom-0", Path("a"), 0)
    old, new = Copy("dicom-1", Path("b"), 20), Copy("dicom-3", Path("c"), 30)
    assert choose_copy([]) == (None, ())
    assert choose_copy([empty]) == (None, ())
    assert choose_copy([empty, old, new]) == (
        new,
        (
            "the copy in dicom-0 is empty; dicom-3 is used",
            "the copy in dicom-1 is passed over; dicom-3 is used",
        ),
    )
    packed = Copy("dicom-3", Path("d.tar.gz"), None)
    assert choose_copy([old, packed])[0] is packed
    assert choose_copy([new, packed])[0] is new
