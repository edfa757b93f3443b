import gzip
import shutil
import tarfile
import zipfile
from io import BytesIO
from pathlib import PurePosixPath

import pytest

from adn_jax.datasets.aisd import unpack
from adn_jax.datasets.aisd.files import take_inventory
from adn_jax.datasets.aisd.unpack import (
    MARK,
    packed_parts,
    place_of,
    unpack_command,
    unpack_part,
)
from adn_jax.errors import UserError
from adn_jax.io.files import read_json
from tests.datasets.aisd.download import EMPTY_CT, MRI, PACKED, PLAIN


def names_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def write_tar(path, members):
    """A .tar.gz; `members` are names and contents."""
    with tarfile.open(path, "w:gz") as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, BytesIO(content))


@pytest.mark.parametrize(
    ("name", "part", "place"),
    [
        (f"mask/mask/{PLAIN}/000.png", "mask", f"{PLAIN}/000.png"),
        (f"dicom-0/{PLAIN}/CT/001.dcm", "dicom-0", f"{PLAIN}/CT/001.dcm"),
        (f"dicom-0/{PLAIN}/CT", "dicom-0", f"{PLAIN}/CT"),
        (f"dicom-0/{PLAIN}.tar.gz", "dicom-0", f"{PLAIN}.tar.gz"),
        (f"dicom-0/{PLAIN}/DWI/001.dcm", "dicom-0", None),
        (f"dicom-0/{PLAIN}/MRI/001.dcm", "dicom-0", None),
        (f"dicom-0/{PLAIN}/CT/._001.dcm", "dicom-0", None),
        (f"dicom-0/{PLAIN}/CT/../../../outside", "dicom-0", None),
        (f"/etc/{PLAIN}/CT/001.dcm", "dicom-0", f"{PLAIN}/CT/001.dcm"),
        ("dicom-0/notes.txt", "dicom-0", None),
        (f"dicom-0/{PLAIN}5/CT/001.dcm", "dicom-0", None),
    ],
)
def test_what_is_needed_of_an_archive_and_where_it_belongs(name, part, place):
    assert place_of(name, part) == (None if place is None else PurePosixPath(place))


def test_the_packed_download_holds_the_same_cases(download, packed, tmp_path):
    parts = packed_parts(packed, with_dicom=True)
    assert [path.name for path in parts] == [
        *("dicom-0.tar.gz", "dicom-1.tar.gz", "dicom-2.tar.gz", "dicom-3.zip"),
        *("image.zip", "mask.zip"),
    ]
    for path in parts:
        unpack_part(path, tmp_path)
    ours, theirs = take_inventory([tmp_path]), take_inventory([download.folder])
    assert set(ours.masks) == set(theirs.masks)
    assert set(ours.pictures) == set(theirs.pictures)
    assert {
        name: [(copy.archive, copy.slices) for copy in copies]
        for name, copies in ours.copies.items()
    } == {
        name: [(copy.archive, copy.slices) for copy in copies]
        for name, copies in theirs.copies.items()
    }
    assert (tmp_path / "dicom-0" / EMPTY_CT / "CT").is_dir()
    assert (tmp_path / "dicom-1" / f"{PACKED}.tar.gz").is_file()
    assert not any(
        "DWI" in name or MRI + "/MRI" in name for name in names_below(tmp_path)
    )
    original = download.folder / "mask" / "mask" / PLAIN / "003.png"
    copy = tmp_path / "mask" / PLAIN / "003.png"
    assert copy.read_bytes() == original.read_bytes()


def test_pictures_alone_need_no_dicom(packed):
    names = [path.name for path in packed_parts(packed, with_dicom=False)]
    assert names == ["image.zip", "mask.zip"]


def test_what_is_unpacked_beside_the_archive_counts(tmp_path):
    for name in ("image.zip", "mask.zip", "dicom-0.tar.gz", "dicom-1.tar.gz", "b.zip"):
        (tmp_path / name).touch()
    (tmp_path / "image").mkdir()
    (tmp_path / "dicom" / "dicom-0").mkdir(parents=True)
    names = [path.name for path in packed_parts(tmp_path, with_dicom=True)]
    assert names == ["dicom-1.tar.gz", "mask.zip"]


def test_commands_that_unpack(tmp_path):
    assert unpack_command(tmp_path / "mask.zip") == "unzip -q mask.zip -d mask"
    assert unpack_command(tmp_path / "dicom-0.tar.gz") == "tar xf dicom-0.tar.gz"


def test_a_second_run_reads_nothing(tmp_path, monkeypatch):
    archive = tmp_path / "dicom-0.tar.gz"
    write_tar(archive, {f"dicom-0/{PLAIN}/CT/001.dcm": b"slice"})
    unpack_part(archive, tmp_path / "out")
    assert (tmp_path / "out" / "dicom-0" / MARK).is_file()
    monkeypatch.setattr(unpack, "members", None)
    folder = unpack_part(archive, tmp_path / "out")
    assert (folder / PLAIN / "CT" / "001.dcm").read_bytes() == b"slice"


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_the_bar_ends_full(tmp_path, monkeypatch, ending):
    """Of a zip file the list at its end is read first, and unused members never."""
    archive, members = tmp_path / f"image{ending}", {f"image/{PLAIN}/000.png": b"one"}
    members |= {"image/notes.txt": bytes(200_000)}
    if ending == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name, content in members.items():
                packed.writestr(name, content)
    else:
        write_tar(archive, members)
    bars = []

    class Bar(unpack.Progress):
        def __init__(self, *columns):
            super().__init__(*columns)
            bars.append(self)

    monkeypatch.setattr(unpack, "Progress", Bar)
    unpack_part(archive, tmp_path / "out")
    (task,) = bars[0].tasks
    assert task.completed == task.total == archive.stat().st_size


def test_another_archive_of_the_same_name_is_unpacked(tmp_path):
    archive = tmp_path / "dicom-0.tar.gz"
    write_tar(archive, {f"dicom-0/{PLAIN}/CT/001.dcm": b"slice"})
    unpack_part(archive, tmp_path / "out")
    write_tar(archive, {f"dicom-0/{n}/CT/001.dcm": b"slice" for n in (PLAIN, PACKED)})
    folder = unpack_part(archive, tmp_path / "out")
    assert (folder / PACKED / "CT" / "001.dcm").is_file()


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    archive = tmp_path / "dicom-0.tar.gz"
    slices = {f"dicom-0/{PLAIN}/CT/{i:03d}.dcm": bytes([i]) * 100 for i in range(6)}
    write_tar(archive, slices)
    kept = unpack.keep

    def stop_at_the_fourth(content, path):
        if path.name == "003.dcm":
            raise KeyboardInterrupt
        kept(content, path)

    monkeypatch.setattr(unpack, "keep", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        unpack_part(archive, tmp_path / "out")
    folder = tmp_path / "out" / "dicom-0" / PLAIN / "CT"
    assert {path.name for path in folder.iterdir()} == {
        *("000.dcm", "001.dcm", "002.dcm")
    }
    shutil.copy(archive, tmp_path / "out")
    assert packed_parts(tmp_path / "out", with_dicom=True), "half of it is not all"
    before = (folder / "001.dcm").stat().st_mtime_ns
    monkeypatch.setattr(unpack, "keep", kept)
    unpack_part(archive, tmp_path / "out")
    assert len(list(folder.iterdir())) == 6
    assert not packed_parts(tmp_path / "out", with_dicom=True)
    assert (folder / "001.dcm").stat().st_mtime_ns == before


def damaged_tars(path):
    """The archive cut short, and with one bit of its content turned."""
    content = path.read_bytes()
    yield content[: len(content) // 2]
    yield content[:-4]
    inner = bytearray(gzip.decompress(content))
    inner[600] ^= 1
    yield gzip.compress(inner)[:-8] + content[-8:]
    yield b"no archive at all"


def test_damaged_archives_are_named(tmp_path):
    archive = tmp_path / "dicom-0.tar.gz"
    write_tar(archive, {f"dicom-0/{PLAIN}/CT/001.dcm": bytes(range(256)) * 40})
    for index, content in enumerate(damaged_tars(archive)):
        archive.write_bytes(content)
        out = tmp_path / f"out{index}"
        with pytest.raises(UserError, match="is damaged or not downloaded to its end"):
            unpack_part(archive, out)
        assert not read_json(out / "dicom-0" / MARK)["whole"]


def test_damaged_zips_are_named(tmp_path):
    archive = tmp_path / "mask.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr(f"mask/{PLAIN}/000.png", b"pixels" * 100)
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"mask\.zip is damaged or not downloaded"):
        unpack_part(archive, tmp_path / "out")


def test_a_target_that_cannot_be_made_is_named(tmp_path):
    archive = tmp_path / "mask.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr(f"mask/{PLAIN}/000.png", b"pixels")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"could not be written .* another folder"):
        unpack_part(archive, tmp_path / "out")


def test_folders_of_the_user_are_left_alone(tmp_path):
    archive = tmp_path / "dicom-0.tar.gz"
    write_tar(archive, {f"dicom-0/{PLAIN}/CT/001.dcm": b"slice"})
    (tmp_path / "out" / "dicom-0" / PLAIN).mkdir(parents=True)
    with pytest.raises(UserError, match=r"dicom-0 is there, but not from --aisd"):
        unpack_part(archive, tmp_path / "out")
    assert (tmp_path / "out" / "dicom-0" / PLAIN).is_dir()


def test_nothing_of_a_damaged_archive_stays_once_it_is_downloaded_again(tmp_path):
    archive = tmp_path / "dicom-0.tar.gz"
    write_tar(archive, {f"dicom-0/{PLAIN}/CT/001.dcm": bytes(range(256)) * 40})
    content = archive.read_bytes()
    *_, spoilt, _ = damaged_tars(archive)
    archive.write_bytes(spoilt)
    with pytest.raises(UserError, match="is damaged"):
        unpack_part(archive, tmp_path / "out")
    archive.write_bytes(content)
    folder = unpack_part(archive, tmp_path / "out")
    slices = (folder / PLAIN / "CT" / "001.dcm").read_bytes()
    assert slices == bytes(range(256)) * 40


def test_links_in_an_archive_are_left_out(tmp_path):
    archive = tmp_path / "dicom-0.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        link = tarfile.TarInfo(f"dicom-0/{PLAIN}/CT/001.dcm")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    assert names_below(unpack_part(archive, tmp_path / "out")) == {MARK}
