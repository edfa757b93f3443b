import shutil
from itertools import chain, islice

import jax
import numpy as np
import pytest

from adn_jax.data.batches import bytes_of_share, open_split, train_batches
from adn_jax.errors import UserError
from tests.training.tiny import SHAPE, drop_volume, head, write_heads


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_heads(tmp_path_factory.mktemp("heads"), train=5, validation=3)


def cases(batches, count):
    return [batch.case.tolist() for batch in islice(batches, count)]


def test_a_batch_depends_on_seed_and_step_alone(manifest):
    split = open_split(manifest, "train")
    whole = cases(train_batches(split, 2, seed=3), 8)
    assert cases(train_batches(split, 2, seed=3, start_step=5), 3) == whole[5:]
    assert cases(train_batches(split, 2, seed=4), 8) != whole


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_read_shares_of_the_same_batches(manifest, monkeypatch, processes):
    """Batches that span two epochs, and the last of a pass, which is filled up."""

    def read():
        batches = train_batches(open_split(manifest, "train"), 4, seed=3)
        passed = open_split(manifest, "validation").once(4)
        return cases(batches, 4) + [batch.case.tolist() for batch, _ in passed]

    whole, shares = read(), []
    monkeypatch.setattr("jax.process_count", lambda: processes)
    for process in range(processes):
        monkeypatch.setattr("jax.process_index", lambda process=process: process)
        shares.append(read())
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)


def test_a_batch_of_one(manifest):
    """The endless dataset has sys.maxsize cases, beyond which no length goes."""
    split = open_split(manifest, "train")
    one, two = (cases(train_batches(split, n, seed=3), 10 // n) for n in (1, 2))
    assert [*chain(*one)] == [*chain(*two)]
    assert split.names_in(1, seed=3, step=0) == (f"head{one[0][0]:02}",)


def test_every_epoch_has_every_case_in_its_own_order(manifest):
    split = open_split(manifest, "train")
    epochs = cases(train_batches(split, 5, seed=0), 4)
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batch_holds_the_arrays_of_its_cases(manifest):
    batch = next(train_batches(open_split(manifest, "train"), 3, seed=0))
    assert batch.volume.shape == batch.lesion.shape == (3, *SHAPE, 1)
    for row, case in enumerate(batch.case.tolist()):
        expected = head("any", seed=case)
        np.testing.assert_array_equal(batch.volume[row, ..., 0], expected.volume)
        np.testing.assert_array_equal(batch.lesion[row, ..., 0], expected.lesion)
        np.testing.assert_array_equal(batch.tissue[row], expected.tissue)


def test_case_is_the_index_in_the_data_set(manifest):
    batches = open_split(manifest, "validation").once(2)
    assert [(b.case.tolist(), count) for b, count in batches] == [
        ([5, 6], 2),
        ([7, 7], 1),
    ]


def test_each_case_is_read_once(manifest, monkeypatch):
    split = open_split(manifest, "train")
    first = split[0]
    monkeypatch.setattr("adn_jax.data.batches.read_volumes", None)
    assert split[0] is first


def test_memory_has_room_for_so_many_cases(manifest, monkeypatch):
    monkeypatch.setattr("adn_jax.data.batches.CASES_IN_MEMORY", 2)
    split = open_split(manifest, "train")
    read = [split[index]["case"] for index in (*range(5), *range(5))]
    assert read == [0, 1, 2, 3, 4] * 2
    assert sorted(split.memory) == [0, 1]


def test_no_more_is_read_than_training_needs(tmp_path):
    manifest = write_heads(tmp_path, train=1, validation=0)
    (tmp_path / "head00" / "brain.nii.gz").unlink()
    case = open_split(manifest, "train")[0]
    np.testing.assert_array_equal(case["volume"], head("head00", 0).volume)
    np.testing.assert_array_equal(case["tissue"], head("head00", 0).tissue)


def test_a_share_takes_so_many_bytes(manifest, monkeypatch):
    split = open_split(manifest, "train")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    arrays = split.stack(range(2))
    taken = sum(array.nbytes for name, array in arrays.items() if name != "case")
    assert bytes_of_share(split, 4) == taken


def test_absent_labels_are_zero_unless_needed(tmp_path):
    write_heads(tmp_path, train=1, validation=0)
    manifest = drop_volume(tmp_path, "tissue", "head00")
    split = open_split(manifest, "train", needs=("lesion",))
    assert not split[0]["tissue"].any()
    with pytest.raises(UserError, match=r"head00 has no tissue\.nii\.gz.*prepare"):
        open_split(manifest, "train", needs=("lesion", "tissue"))


def test_small_split(manifest):
    with pytest.raises(
        UserError, match=r"'test' of .* has 0 cases and needs at least 1;"
    ):
        open_split(manifest, "test")
    with pytest.raises(UserError, match="has 5 cases and needs at least 6"):
        open_split(manifest, "train", at_least=6)


def test_a_process_that_cannot_read_gives_absent_cases(tmp_path, monkeypatch, capsys):
    """From the first on; what the others read in the same steps must not count."""
    split = open_split(write_heads(tmp_path), "train")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    order = cases(train_batches(split, 2, seed=0), 8)
    shutil.rmtree(tmp_path / "head02")
    split = open_split(split.manifest, "train")
    first = order.index([2])
    found = cases(train_batches(split, 2, seed=0), 8)
    assert found == order[:first] + [[-1]] * (8 - first)
    passed = [(batch.case.tolist(), count) for batch, count in split.once(2)]
    assert passed == [([0], 2), ([-1], 2), ([-1], 1)]
    assert capsys.readouterr().err.count("adn: ") == 2
    with pytest.raises(UserError, match=r"could not be read by a process.*restore it"):
        split.check_present(np.array([0, -1]))
    split.check_present(np.array([0, 1]))
