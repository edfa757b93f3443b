"""The peer of MONAI trains and predicts on an exported data set."""

import json

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("monai")
from benchmarks.monai_peer import Split, main

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

AFFINE = np.diag([3.0, 3.0, 9.0, 1.0])


@pytest.fixture
def dataset(tmp_path):
    """Four heads of noise with a dark cube each, in nnU-Net's raw layout."""
    folder = tmp_path / "Dataset501_ADN"
    for seed, (part, name) in enumerate(
        [("Tr", "a"), ("Tr", "b"), ("Tr", "c"), ("Ts", "d")]
    ):
        label = np.zeros((16, 16, 8), np.uint8)
        label[4:8, 4:8, 2:5] = 1
        hu = np.random.default_rng(seed).normal(35, 3, label.shape) - 15 * label
        for kind, one in (("images", hu.astype(np.float32)), ("labels", label)):
            (folder / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
            ending = "_0000.nii.gz" if kind == "images" else ".nii.gz"
            path = folder / f"{kind}{part}" / f"{name}{ending}"
            nib.Nifti1Image(one, AFFINE).to_filename(path)
    fold = {"train": ["a", "b"], "val": ["c"]}
    (folder / "splits_final.json").write_text(json.dumps([fold]))
    return folder


def test_every_held_out_case_has_a_probability_on_its_grid(dataset, tmp_path, capsys):
    assert [len(part) for part in vars(Split.of(dataset)).values()] == [2, 1, 1]
    options = ["--updates", "2", "--validate-every", "1"]
    main([str(dataset), str(tmp_path / "out"), *options])
    (path,) = (tmp_path / "out").iterdir()
    found = nib.load(path)
    assert path.name == "d_0000.nii.gz"
    assert found.shape == (16, 16, 8)
    np.testing.assert_allclose(found.affine, AFFINE)
    values = found.get_fdata()
    assert 0 < values.min() < values.max() < 1
    main([str(dataset), str(tmp_path / "again"), *options])
    again = nib.load(tmp_path / "again" / path.name).get_fdata()
    np.testing.assert_allclose(again, values, atol=1e-6)
    assert capsys.readouterr().out.count("update 2: loss") == 2
