import os
from dataclasses import replace

import numpy as np
import pytest

from adn_jax.data.cases import read_case
from adn_jax.data.manifest import (
    read_manifest,
    read_packed,
    write_shard,
)
from adn_jax.errors import UserError
from adn_jax.io.paths import to_place, upload
from adn_jax.prepare.export import pack_dataset
from tests.training.tiny import write_heads


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Three heads in folders."""
    folder = tmp_path_factory.mktemp("shards") / "prepared"
    return write_heads(folder, train=2, validation=1)


@pytest.fixture
def shard(prepared, tmp_path):
    """The three heads in one file."""
    path = tmp_path / "heads.array_record"
    write_shard(path, [prepared.folder / name for name in prepared.cases])
    return path


def assert_same_cases(one, other):
    assert one.cases == other.cases
    for name in one.cases:
        first, second = (vars(read_case(m.case_folder(name))) for m in (one, other))
        for key, value in first.items():
            np.testing.assert_array_equal(value, second[key], strict=True)


@pytest.mark.parametrize("kind", ["disk", "gcs"])
def test_packed_cases_are_read_as_they_were(prepared, tmp_path, kind, request):
    out = tmp_path / "packed"
    if kind != "disk":
        bucket = request.getfixturevalue(kind).bucket
        out = to_place(f"{bucket}/{tmp_path.name}/packed")
    pack_dataset(prepared.folder, out, cases_per_shard=2)
    assert_same_cases(prepared, read_manifest(out))


@pytest.mark.parametrize("kind", ["gcs", "s3"])
def test_cases_in_folders_are_read_from_stores(prepared, tmp_path, kind, request):
    bucket = request.getfixturevalue(kind).bucket
    place = to_place(f"{bucket}/{tmp_path.name}/folders")
    upload(prepared.folder, place)
    assert_same_cases(prepared, read_manifest(place))


def test_the_bytes_do_not_depend_on_the_time(prepared, shard, tmp_path):
    for path in prepared.folder.rglob("*"):
        os.utime(path, (0, 0))
    again = tmp_path / "again.array_record"
    write_shard(again, [prepared.folder / name for name in prepared.cases])
    assert again.read_bytes() == shard.read_bytes()


def test_another_case_in_the_record_is_refused(shard):
    assert read_packed(shard, 1, "head01").name == "head01"
    with pytest.raises(UserError, match=r"record 1 of .* does not hold head02; pack"):
        read_packed(shard, 1, "head02")


def flipped(content):
    """A byte of the first case changed."""
    return content[:3000] + bytes([content[3000] ^ 1]) + content[3001:]


@pytest.mark.parametrize("damage", [flipped, lambda c: c[:-1], lambda _: b""])
def test_a_damaged_file_is_refused(shard, damage):
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(UserError, match=r"record 0 of .* could not be read .*; "):
        read_packed(shard, 0, "head00")


def test_a_file_or_record_that_is_not_there(shard, gcs):
    lost = to_place(f"{gcs.bucket}/lost.array_record")
    for path, record in ((shard, 3), (shard.with_name("lost"), 0), (lost, 0)):
        with pytest.raises(UserError, match=f"record {record} of {path} could not"):
            read_packed(path, record, "head00")


def test_packed_cases_at_s3_are_refused(prepared, tmp_path, s3):
    place = to_place(f"{s3.bucket}/{tmp_path.name}/packed")
    with pytest.raises(UserError, match="can be read from gs:// alone"):
        pack_dataset(prepared.folder, place)
    assert not place.exists()
    replace(prepared, folder=place, shards=("a",), cases_per_shard=3).write()
    with pytest.raises(UserError, match="can be read from gs:// alone"):
        read_manifest(place)
