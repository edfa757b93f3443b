import numpy as np
import pytest

from adn_jax.metrics.overlap import count_lesions, dice, volume_ml


def mask(*boxes):
    """A 6x10x10 mask with the given (z, y, x) corner and size boxes."""
    volume = np.zeros((6, 10, 10), bool)
    for corner, size in boxes:
        volume[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    return volume


def test_dice_of_half_shifted_boxes():
    lesion = mask(((1, 2, 2), (2, 4, 4)))
    shifted = mask(((1, 2, 4), (2, 4, 4)))
    assert dice(lesion, lesion) == 1.0
    assert dice(shifted, lesion) == 0.5
    assert dice(mask(), lesion) == 0.0
    assert np.isnan(dice(mask(), mask()))


def test_dice_equals_monai():
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    generator = np.random.default_rng(0)
    prediction, lesion = generator.random((2, 6, 10, 10)) > 0.6
    reference = metrics.compute_dice(
        torch.from_numpy(prediction)[None, None], torch.from_numpy(lesion)[None, None]
    )
    assert dice(prediction, lesion) == pytest.approx(float(reference), rel=1e-6)


def test_volume_counts_millilitres():
    box = mask(((0, 0, 0), (2, 5, 10)))
    assert volume_ml(box, (5.0, 1.2, 1.2)) == pytest.approx(100 * 5 * 1.44 / 1000)
    assert volume_ml(mask(), (5.0, 1.2, 1.2)) == 0.0


def test_a_leaning_voxel_has_its_determinants_volume():
    lean = np.tan(np.radians(22)) * 5.0
    steps = np.array([[0, 0, 1.2], [-lean, 1.2, 0], [5.0, 0, 0]])  # x y z rows
    box = mask(((0, 0, 0), (2, 5, 10)))
    upright = volume_ml(box, (5.0, 1.2, 1.2))
    assert volume_ml(box, steps) == pytest.approx(upright)


def test_lesions_are_hit_by_one_shared_voxel():
    lesion = mask(((0, 0, 0), (2, 2, 2)), ((3, 6, 6), (2, 2, 2)))
    prediction = mask(
        ((1, 1, 1), (1, 1, 1)),  # inside the first lesion
        ((5, 0, 8), (1, 2, 2)),  # touches nothing
        ((1, 4, 0), (1, 1, 1)),  # touches nothing
    )
    counts = count_lesions(prediction, lesion)
    assert (counts.true, counts.found, counts.predicted, counts.right) == (2, 1, 3, 1)
    assert counts.recall == 0.5
    assert counts.precision == pytest.approx(1 / 3)
    assert counts.f1 == pytest.approx(0.4)


def test_voxels_sharing_a_corner_are_one_lesion():
    diagonal = mask(((0, 0, 0), (1, 1, 1)), ((1, 1, 1), (1, 1, 1)))
    assert count_lesions(diagonal, diagonal).true == 1


def test_f1_where_a_side_is_empty():
    some = mask(((0, 0, 0), (1, 1, 1)))
    assert count_lesions(mask(), some).f1 == 0.0
    assert count_lesions(some, mask()).f1 == 0.0
    assert np.isnan(count_lesions(mask(), mask()).f1)
    assert np.isnan(count_lesions(mask(), some).precision)
    assert np.isnan(count_lesions(some, mask()).recall)
