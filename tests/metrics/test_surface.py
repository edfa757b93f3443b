import numpy as np
import pytest
from scipy import ndimage

from adn_jax.metrics.overlap import (
    CONVENTIONS,
    hd95,
    surface_distances,
    surface_points_mm,
)

SPACING = (5.0, 1.2, 0.9)


def blobs(seed, shape=(9, 24, 20), level=0.3):
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, (1, 2, 2))
    return smooth > level * smooth.max()


def test_one_voxel_shift_is_its_spacing():
    for axis, step in enumerate(SPACING):
        one = np.zeros((5, 5, 5), bool)
        one[2, 2, 2] = True
        distances = surface_distances(one, np.roll(one, 1, axis), SPACING)
        for convention in CONVENTIONS:
            assert hd95(distances, convention) == pytest.approx(step)


def test_distances_on_leaning_slices_are_those_between_places():
    rng = np.random.default_rng(0)
    steps = np.diag(SPACING) @ (np.eye(3) + rng.uniform(-0.4, 0.4, (3, 3)))
    prediction, lesion = blobs(3), blobs(4)
    places = [
        np.argwhere(m & ~ndimage.binary_erosion(m)) @ steps.T
        for m in (prediction, lesion)
    ]
    apart = np.linalg.norm(places[0][:, None] - places[1][None], axis=2)
    forth, back = apart.min(axis=1), apart.min(axis=0)
    found = surface_distances(prediction, lesion, steps)
    np.testing.assert_allclose(np.sort(found.from_prediction), np.sort(forth))
    np.testing.assert_allclose(np.sort(found.from_lesion), np.sort(back))


def test_surface_leaves_out_the_core_and_keeps_the_image_border():
    full = np.ones((4, 5, 6), bool)
    assert len(surface_points_mm(full, SPACING)) == 4 * 5 * 6 - 2 * 3 * 4
    assert surface_points_mm(full, SPACING).max(axis=0) == pytest.approx(
        [3 * 5.0, 4 * 1.2, 5 * 0.9]
    )


@pytest.mark.filterwarnings("ignore:.*get_mask_edges:FutureWarning")
@pytest.mark.parametrize("seed", range(4))
def test_directed_equals_monai(seed):
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    prediction, lesion = blobs(seed), blobs(seed + 10)
    reference = metrics.compute_hausdorff_distance(
        torch.from_numpy(prediction)[None, None],
        torch.from_numpy(lesion)[None, None],
        include_background=True,
        percentile=95,
        spacing=SPACING,
    )
    ours = hd95(surface_distances(prediction, lesion, SPACING))
    assert ours == pytest.approx(float(reference), rel=1e-6)


def test_both_conventions_equal_a_distance_transform():
    prediction, lesion = blobs(1), blobs(2)
    edges = [m & ~ndimage.binary_erosion(m) for m in (prediction, lesion)]
    far = [ndimage.distance_transform_edt(~edge, sampling=SPACING) for edge in edges]
    forth, back = far[1][edges[0]], far[0][edges[1]]
    distances = surface_distances(prediction, lesion, SPACING)
    directed = max(np.percentile(forth, 95), np.percentile(back, 95))
    pooled = np.percentile(np.concatenate([forth, back]), 95)
    assert hd95(distances, "directed") == pytest.approx(directed)
    assert hd95(distances, "pooled") == pytest.approx(pooled)
    assert pooled < directed


def test_distances_do_not_depend_on_the_position_in_the_image():
    prediction, lesion = blobs(3), blobs(4)
    padded = [np.pad(m, ((3, 1), (0, 7), (5, 2))) for m in (prediction, lesion)]
    inside = [np.pad(m, 1) for m in (prediction, lesion)]
    assert hd95(surface_distances(*padded, SPACING)) == pytest.approx(
        hd95(surface_distances(*inside, SPACING))
    )


def test_empty_masks_are_refused():
    empty = np.zeros((3, 3, 3), bool)
    with pytest.raises(ValueError, match="not empty"):
        surface_distances(empty, ~empty, SPACING)
    with pytest.raises(ValueError, match="not empty"):
        surface_distances(~empty, empty, SPACING)
