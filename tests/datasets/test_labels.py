import numpy as np
import pytest

from adn_jax.datasets.raw import infarct_mask, native_label
from adn_jax.errors import UserError
from adn_jax.io.image import Image
from adn_jax.scans.read import RawScan


def image(values):
    return Image(np.asarray(values, np.float32), np.eye(4), "lesion label")


ALL_LABELS = np.arange(6, dtype=np.int16).reshape(6, 1, 1)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [((1, 2, 3, 5), [0, 1, 1, 1, 0, 1]), ((4,), [0, 0, 0, 0, 1, 0])],
)
def test_rule_decides_what_is_infarct(rule, expected):
    mask = infarct_mask(image(ALL_LABELS), rule)
    assert mask.dtype == np.uint8
    assert mask.ravel().tolist() == expected


def test_integers_may_be_off_by_what_a_scale_factor_leaves():
    """A float next to 1, and 2 and 4 stored in 255 steps of 4 / 255."""
    values = [np.nextafter(np.float32(1), np.float32(0)), 1.992, 4.008]
    mask = infarct_mask(image(np.reshape(values, (3, 1, 1))), (1, 2))
    assert mask.ravel().tolist() == [1, 1, 0]


@pytest.mark.parametrize("value", [6, 255, -1, 0.5, 0.9, np.inf])
def test_other_values_are_refused(value):
    values = ALL_LABELS.astype(np.float32)
    values[3] = value
    with pytest.raises(UserError, match=f"holds the value {value:g}; known are 0 to 5"):
        infarct_mask(image(values), (1,))


def test_a_label_comes_out_on_the_scans_voxels():
    """Drawn in an order of axes of its own: x and y exchanged, z upside down."""
    scan = RawScan("one", Image(np.zeros((3, 3, 2)), np.diag([2, 2, 5, 1.0]), "scan"))
    drawn = np.zeros((3, 3, 2), np.float32)
    drawn[1, 0, 1] = 2
    exchanged = np.array([[0, 2, 0, 0], [2, 0, 0, 0], [0, 0, -5, 5], [0, 0, 0, 1.0]])
    label = native_label(Image(drawn, exchanged, "lesion label"), scan, (2,))
    assert label.voxels.dtype == np.uint8
    assert np.argwhere(label.voxels).tolist() == [[0, 1, 0]]


def test_a_value_beyond_five_counts_where_it_is_named():
    """Masks of 0 and 255; what else is above five stays unknown."""
    values = np.array([0, 255, 255, 0], np.uint8).reshape(4, 1, 1)
    assert infarct_mask(image(values), (255,)).ravel().tolist() == [0, 1, 1, 0]
    with pytest.raises(UserError, match=r"255 is .*, set --infarct-labels 1 2 255\.$"):
        infarct_mask(image(values), (1, 2))
    values[3] = 128
    with pytest.raises(UserError, match="holds the value 128"):
        infarct_mask(image(values), (255,))
