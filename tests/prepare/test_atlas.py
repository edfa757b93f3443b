import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from adn_jax.datasets.raw import TISSUES
from adn_jax.errors import UserError
from adn_jax.io.image import nearest_ras, read_image
from adn_jax.prepare.tissue import (
    around,
    icbm_atlas,
    import_ants,
    load_atlas,
)

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def write_maps(folder, names=("grey", "white", "csf"), scale=1.0, affine=AFFINE):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    maps = rng.dirichlet((1, 1, 1, 1), (4, 5, 6)).astype(np.float32)
    for index, name in enumerate(names):
        values = scale * maps[..., index]
        nib.Nifti1Image(values, affine).to_filename(folder / f"{name}.nii.gz")
    return maps[..., :3].transpose(3, 2, 1, 0)


def refused(folder) -> str:
    with pytest.raises(UserError) as caught:
        load_atlas(str(folder))
    return str(caught.value)


def test_icbm_maps_are_probabilities():
    atlas = icbm_atlas()
    assert atlas.maps.sum(axis=0).max() <= 1 + 1e-5
    assert atlas.maps.min() >= 0
    litres = atlas.maps.sum(axis=(1, 2, 3)) * np.linalg.det(atlas.affine) / 1e6
    assert 1.5 < litres.sum() < 2.1
    assert litres[0] > litres[1] > litres[2] > 0.1


@pytest.mark.parametrize(
    "names",
    [
        ("grey", "white", "csf"),
        ("scgrey", "scwhite", "sccsf"),
        ("c1head", "c2head", "c3head"),
        ("tpl_label-GM_probseg", "tpl_label-WM_probseg", "tpl_label-CSF_probseg"),
        ("gray_matter", "white_matter", "CSF"),
    ],
)
def test_maps_are_found_under_many_names(tmp_path, names):
    maps = write_maps(tmp_path, names)
    atlas = load_atlas(str(tmp_path))
    np.testing.assert_allclose(atlas.maps, maps, atol=1e-6)
    np.testing.assert_array_equal(atlas.affine, AFFINE)


def test_maps_in_another_orientation_are_turned(tmp_path):
    maps = write_maps(tmp_path, affine=np.diag([-2.0, -2.0, 2.0, 1.0]))
    atlas = load_atlas(str(tmp_path))
    np.testing.assert_allclose(atlas.maps, maps[:, :, ::-1, ::-1], atol=1e-6)
    assert np.linalg.det(atlas.affine[:3, :3]) == pytest.approx(8)
    assert (np.diag(atlas.affine) > 0).all()


def test_what_is_no_atlas(tmp_path):
    assert "is no folder" in refused(tmp_path / "nothing")
    write_maps(tmp_path, ("grey", "white"))
    assert "has no map of csf; one is wanted, named csf.nii.gz" in refused(tmp_path)
    write_maps(tmp_path)
    write_maps(tmp_path, ("c1other",))
    assert "has 2 maps of grey" in refused(tmp_path)


def test_maps_that_are_no_probabilities(tmp_path):
    write_maps(tmp_path, scale=255)
    assert "probabilities from 0 to 1 are wanted" in refused(tmp_path)


def test_maps_on_different_grids(tmp_path):
    write_maps(tmp_path)
    write_maps(tmp_path, ("white",), affine=np.diag([2.0, 2.0, 2.5, 1.0]))
    assert "lie on different grids" in refused(tmp_path)


def test_missing_ants_is_told_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "ants", None)
    with pytest.raises(UserError, match=r"pip install adn-jax\[atlas\]"):
        import_ants()


def test_a_volume_is_cut_around_the_brain():
    brain = np.zeros((20, 40, 50), bool)
    brain[9:12, 18:22, 20:30] = True
    volume = np.random.default_rng(0).random(brain.shape, np.float32)
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    cut, moved = around(volume, brain, affine)
    np.testing.assert_array_equal(cut, volume[6:15, 14:26, 14:36])
    np.testing.assert_allclose(moved[:3, 3], [28, 42, 30])


@pytest.mark.slow
@pytest.mark.shared
def test_another_atlas_is_laid_over_its_own_brain(shared):
    pytest.importorskip("ants")
    atlas = load_atlas(str(shared / "data" / "ct_atlas"))
    coarse = replace(  # registered in seconds
        atlas,
        maps=atlas.maps[:, ::3, ::3, ::3],
        affine=atlas.affine @ np.diag([3, 3, 3, 1]),
    )
    brain = coarse.maps.sum(axis=0) > 0.5
    hu = np.tensordot((37.0, 29.0, 8.0), coarse.maps, axes=1).astype(np.float32)
    turned = coarse.affine.copy()
    turned[:3, 3] += [10, -8, 5]
    laid, overlap = coarse.lay_over(hu, brain, turned)
    assert overlap > 0.98
    # ANTs never finds the same bits twice: ten times 0.0015 to 0.0018
    assert np.abs(laid - coarse.maps).mean() < 0.004
    for tissue, found in zip(TISSUES, atlas.maps, strict=True):
        path = shared / "data" / "ct_atlas" / f"sc{tissue}.nii.gz"
        read = nearest_ras(read_image(path, tissue))[0]
        np.testing.assert_allclose(found, read, atol=1e-6)
