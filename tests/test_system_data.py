"""From phantoms to prepared cases to a data set of nnU-Net, and back, by the verbs."""

import json

import nibabel as nib
import numpy as np
import pytest

from adn_jax.cli.main import main
from adn_jax.data.manifest import read_manifest

GRID = ["--shape", "8", "32", "32", "--spacing-mm", "18", "6", "6", "--workers", "1"]


@pytest.mark.slow
def test_phantoms_reach_nnunet_and_come_back(tmp_path, capsys):
    raw, prepared, out, again = (
        str(tmp_path / name) for name in ("raw", "prepared", "nnUNet_raw", "again")
    )
    counts = ["--cases", "3", "--validation", "1", "--test", "1"]
    main(["phantom", raw, *counts, "--workers", "1"])
    main(["prepare", raw, prepared, *GRID])
    main(["export", prepared, out, "--raw", raw, "--workers", "1"])
    said = " ".join(capsys.readouterr().out.split())
    assert "exported cases (1 train, 1 validation, 1 test) are in" in said

    exported = tmp_path / "nnUNet_raw" / "Dataset501_ADN"
    about = json.loads((exported / "dataset.json").read_text())
    assert about["numTraining"] == 2
    for part, name in (("Tr", "phantom_0000"), ("Ts", "phantom_0002")):
        scan = nib.load(tmp_path / "raw" / name / "ct.nii.gz")
        image = nib.load(exported / f"images{part}" / f"{name}_0000.nii.gz")
        np.testing.assert_array_equal(image.dataobj, scan.dataobj)

    main(["prepare", out, again, *GRID])
    first, second = (read_manifest(tmp_path / name) for name in ("prepared", "again"))
    assert (first.layout, second.layout) == ("plain", "nnunet")
    assert first.cases == second.cases
    assert first.splits == second.splits
    for name in first.cases:
        for file in ("ct.nii", "lesion.nii.gz", "lesion_native.nii.gz"):
            one, other = (nib.load(m.folder / name / file) for m in (first, second))
            np.testing.assert_array_equal(one.dataobj, other.dataobj)
