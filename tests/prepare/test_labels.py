import nibabel as nib
import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.prepare.labels import check_same_grid, infarct_mask


def image(values, affine=None):
    return nib.Nifti1Image(np.asarray(values), np.eye(4) if affine is None else affine)


ALL_LABELS = np.arange(6, dtype=np.int16).reshape(6, 1, 1)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [((1, 2, 3, 5), [0, 1, 1, 1, 0, 1]), ((4,), [0, 0, 0, 0, 1, 0])],
)
def test_rule_decides_what_is_infarct(rule, expected):
    mask = infarct_mask(image(ALL_LABELS), rule)
    assert mask.dtype == np.uint8
    assert mask.ravel().tolist() == expected


def test_labels_stored_as_floats_are_accepted():
    mask = infarct_mask(image(ALL_LABELS.astype(np.float32)), (2,))
    assert mask.ravel().tolist() == [0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("value", [6, 255, -1, 0.5, np.nan])
def test_other_values_are_refused(value):
    values = ALL_LABELS.astype(np.float32)
    values[3] = value
    with pytest.raises(UserError, match=f"holds the value {value:g}; labels are the"):
        infarct_mask(image(values), (1,))


def test_same_grid_within_half_a_voxel():
    scan = image(np.zeros((6, 6, 6), np.int16))
    nearly = np.eye(4)
    nearly[0, 3] = 0.4
    check_same_grid(image(np.zeros((6, 6, 6), np.int16), nearly), scan, "lesion label")


def test_another_shape_is_refused():
    scan = image(np.zeros((6, 6, 6), np.int16))
    with pytest.raises(UserError, match=r"label has shape \(6, 6, 5\) and the scan"):
        check_same_grid(image(np.zeros((6, 6, 5), np.int16)), scan, "lesion label")


@pytest.mark.parametrize("entry", [(0, 3), (2, 2), (0, 1)])
def test_another_affine_is_refused(entry):
    affine = np.eye(4)
    affine[entry] += 0.7
    scan = image(np.zeros((6, 6, 6), np.int16))
    with pytest.raises(UserError, match="label has another affine than the scan"):
        check_same_grid(image(scan.dataobj, affine), scan, "lesion label")
