import typing

import pytest

from adn_jax.config import ReadSettings
from adn_jax.datasets.recognise import LAYOUTS, find_dataset, layout_of
from adn_jax.errors import UserError
from tests.datasets import test_links

SIGNS = {
    "aisd": ["dicom-0/0073410/CT/001.dcm"],
    "plain": ["a/ct.nii.gz"],
    "bids": ["sub-a/ses-1/sub-a_ses-1_ct.nii.gz"],
    "nnunet": ["imagesTr/a_0000.nii.gz"],
}


def add(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_every_layout_is_known_everywhere():
    by_name = typing.get_args(typing.get_type_hints(ReadSettings)["layout"])
    assert set(by_name) == {"auto", *LAYOUTS}
    assert LAYOUTS.keys() == SIGNS.keys() == test_links.LAYOUTS.keys()


@pytest.mark.parametrize("layout", SIGNS)
def test_each_layout_by_its_sign(tmp_path, layout):
    add(tmp_path, *SIGNS[layout])
    assert layout_of(tmp_path) == layout


def test_plain_cases_that_are_called_as_subjects(tmp_path):
    add(tmp_path, "sub-1/ct.nii.gz")
    add(tmp_path, "sub-2/dicom/0001")
    assert layout_of(tmp_path) == "plain"


def test_without_a_sign_it_is_plain(tmp_path):
    assert layout_of(tmp_path) == "plain"
    with pytest.raises(UserError, match="is empty; a raw data set has folders"):
        find_dataset(tmp_path)


def test_several_signs_are_refused_with_the_way_out(tmp_path):
    add(tmp_path, *SIGNS["bids"])
    add(tmp_path, *SIGNS["plain"])
    with pytest.raises(UserError) as caught:
        find_dataset(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} looks like several layouts (bids, plain); name the one to read, "
        "as in --layout bids (an option of `adn prepare`)."
    )
    assert [case.name for case in find_dataset(tmp_path, "plain").cases] == ["a"]
    assert [case.name for case in find_dataset(tmp_path, "bids").cases] == ["sub-a"]


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="is no folder; give the folder of a raw data"):
        find_dataset(tmp_path / "nothing")
