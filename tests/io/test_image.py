import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from adn_jax.errors import UserError
from adn_jax.io.image import (
    Image,
    from_nifti,
    in_order_of,
    nearest_ras,
    onto_voxels,
    read_image,
    to_nifti,
    voxel_steps,
    write_image,
)

SHAPE = (5, 6, 7)

SPACING = (0.5, 0.5, 5.0)


def oblique(rng, spacing=SPACING):
    """A scan with random values on a turned grid."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=rng).as_matrix() * spacing
    affine[:3, 3] = rng.uniform(-90, 90, 3)
    return Image(rng.normal(size=SHAPE).astype(np.float32), affine, "scan")


def shuffled(image, rng, meaning="lesion label"):
    """The same voxels at the same millimetres, in another order and direction."""
    axes = np.stack([rng.permutation(3), rng.choice([-1, 1], 3)], axis=1)
    turned = nib.Nifti1Image(image.voxels, image.affine).as_reoriented(axes)
    return from_nifti(turned, meaning)


@pytest.mark.parametrize("seed", range(200))
def test_every_voxel_keeps_its_millimetre_in_any_order(seed):
    rng = np.random.default_rng(seed)
    scan = oblique(rng)
    placed = onto_voxels(shuffled(scan, rng), shuffled(scan, rng, "scan"))
    back = onto_voxels(placed, scan)
    np.testing.assert_array_equal(back.voxels, scan.voxels)
    np.testing.assert_array_equal(back.affine, scan.affine)
    assert back.meaning == "lesion label"


@pytest.mark.parametrize("seed", range(50))
def test_what_lies_a_voxel_away_is_refused(seed):
    rng = np.random.default_rng(seed)
    scan = oblique(rng)
    step = np.eye(4)
    step[rng.integers(3), 3] = rng.choice([-1, 1]) * rng.uniform(1, 4)
    moved = shuffled(Image(scan.voxels, scan.affine @ step, "map"), rng)
    with pytest.raises(UserError, match="lies beside the scan's voxels"):
        onto_voxels(moved, scan)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (np.diag([1.0, 1.0, 1.2, 1.0]), "has voxels of 0.5 x 0.5 x 6 mm and the scan"),
        (
            Rotation.from_euler("z", 20, degrees=True),
            r"is turned against the scan \(corners are up to 0.* mm apart",
        ),
    ],
)
def test_the_true_reason_is_given(change, reason):
    affine = np.diag([*SPACING, 1.0])
    scan = Image(np.zeros(SHAPE), affine, "scan")
    if isinstance(change, Rotation):
        turn = np.eye(4)
        turn[:3, :3] = change.as_matrix()
        middle = (affine @ [*(np.array(SHAPE) - 1) / 2, 1])[:3]
        turn[:3, 3] = middle - turn[:3, :3] @ middle
        other = turn @ affine
    else:
        other = affine @ change
    with pytest.raises(UserError, match=f"the brain mask {reason}"):
        onto_voxels(Image(np.zeros(SHAPE), other, "brain mask"), scan)


def test_another_number_of_voxels_is_told_in_the_scans_order():
    scan = Image(np.zeros(SHAPE), np.eye(4), "scan")
    swap = np.eye(4)[[1, 0, 2, 3]]
    with pytest.raises(UserError, match=r"has 6 x 5 x 7 voxels where .* has 5 x 6 x 7"):
        onto_voxels(Image(np.zeros(SHAPE), swap, "map"), scan)


def test_rounded_headers_are_the_same_place():
    rng = np.random.default_rng(0)
    scan = oblique(rng)
    near = scan.affine + rng.uniform(-0.01, 0.01, (4, 4)) * [[1], [1], [1], [0]]
    assert onto_voxels(Image(scan.voxels, near, "map"), scan).shape == SHAPE


def leaning_scan(tmp_path):
    """A scan as dcm2niix writes a tilted series: sheared sform, upright qform."""
    lean = np.diag([*SPACING, 1.0])
    lean[1, 2] = -lean[2, 2] * np.tan(np.deg2rad(15))
    image = nib.Nifti1Image(np.arange(210, dtype=np.int16).reshape(SHAPE), lean)
    image.set_sform(lean, 1)
    image.set_qform(lean, 1)
    image.to_filename(tmp_path / "lean.nii.gz")
    return image.get_qform(), read_image(tmp_path / "lean.nii.gz", "scan")


def test_a_label_by_the_scans_other_form_is_accepted(tmp_path):
    """ITK follows the upright qform of a leaning scan, and writes it as both forms."""
    upright, scan = leaning_scan(tmp_path)
    label = Image(scan.voxels, upright, "lesion label")
    np.testing.assert_array_equal(onto_voxels(label, scan).voxels, scan.voxels)


def centred(affine_of, codes=(1, 1)):
    """A scan with its origin in the middle; its header says where by two affines."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(SHAPE) - 1) / 2
    values = np.arange(210, dtype=np.int16).reshape(SHAPE)
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine_of(affine), codes[1])
    return from_nifti(image, "lesion label")


def mirrored(affine):
    return affine * [[-1], [1], [1], [1]]


def test_a_label_that_says_nothing_of_its_place_is_refused():
    """What nibabel makes up for it, x to the left, would fit a scan around 0."""
    nowhere = centred(np.array, codes=(0, 0))
    with pytest.raises(
        UserError, match=r"does not say where .*neither sform nor qform"
    ):
        onto_voxels(nowhere, centred(np.array))
    np.testing.assert_array_equal(onto_voxels(nowhere, nowhere).voxels, nowhere.voxels)


def test_a_label_with_two_places_on_the_scan_is_refused():
    two = centred(mirrored)
    with pytest.raises(UserError, match="fits the scan in two ways"):
        onto_voxels(two, centred(np.array))
    np.testing.assert_array_equal(onto_voxels(two, two).voxels, two.voxels)


def test_values_that_are_no_number_are_carried_along(tmp_path):
    path = tmp_path / "mask.nii"
    values = np.where(np.arange(210).reshape(SHAPE) % 3, np.float32(np.nan), 1)
    nib.Nifti1Image(values, np.diag([*SPACING, 1])).to_filename(path)
    mask = read_image(path, "brain mask")
    np.testing.assert_array_equal(onto_voxels(mask, mask).voxels, values)


def itk_corners(path):
    """Corner voxels in mm (RAS) as ITK lays them."""
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(path))
    ends = np.array(image.GetSize()) - 1
    index = [np.where(bits, ends, 0).tolist() for bits in np.ndindex(2, 2, 2)]
    points = [image.TransformIndexToPhysicalPoint(one) for one in index]
    return np.array(points) * [-1, -1, 1]


def nibabel_corners(path):
    image = nib.load(path)
    ends = np.array(image.shape) - 1
    index = [np.where(bits, ends, 0) for bits in np.ndindex(2, 2, 2)]
    return nib.affines.apply_affine(image.affine, index)


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 2), (0, 0), (4, 1)])
def test_results_lie_where_each_program_lays_the_scan(tmp_path, codes):
    rng = np.random.default_rng(sum(codes))
    scan = oblique(rng, (0.5, 0.5, 5.0))
    file = nib.Nifti1Image(scan.voxels, scan.affine)
    file.set_qform(scan.affine, codes[0])
    file.set_sform(scan.affine, codes[1])
    file.to_filename(tmp_path / "scan.nii.gz")
    image = read_image(tmp_path / "scan.nii.gz", "scan")
    write_image(tmp_path / "map.nii.gz", image.holding(image.voxels, "map"))
    for corners in (itk_corners, nibabel_corners):
        np.testing.assert_allclose(
            corners(tmp_path / "map.nii.gz"),
            corners(tmp_path / "scan.nii.gz"),
            atol=0.01,
        )
    header = nib.load(tmp_path / "map.nii.gz").header
    assert (header["qform_code"], header["sform_code"]) == codes


def test_results_of_a_leaning_scan_open_in_itk(tmp_path):
    _, scan = leaning_scan(tmp_path)
    write_image(tmp_path / "map.nii.gz", scan.holding(scan.voxels, "map"), 0.25)
    for corners in (itk_corners, nibabel_corners):
        np.testing.assert_allclose(
            corners(tmp_path / "map.nii.gz"),
            corners(tmp_path / "lean.nii.gz"),
            atol=0.01,
        )


def test_an_image_of_our_own_lies_alike_in_itk_and_nibabel(tmp_path):
    image = oblique(np.random.default_rng(1))
    write_image(tmp_path / "map.nii", image)
    np.testing.assert_allclose(
        itk_corners(tmp_path / "map.nii"),
        nibabel_corners(tmp_path / "map.nii"),
        atol=0.01,
    )


def test_volumes_are_stored_in_steps():
    values = Image(np.array([[[0.26, -3.9, 5000.0]]], np.float32), np.eye(4), "map")
    stored = to_nifti(values, 0.125)
    assert stored.get_data_dtype() == np.int16
    again = nib.Nifti1Image.from_bytes(stored.to_bytes()).get_fdata()
    np.testing.assert_array_equal(again, [[[0.25, -4.0, 5000.0]]])
    fine = to_nifti(Image(values.voxels[..., :2], np.eye(4), "map"), 0.125)
    again = nib.Nifti1Image.from_bytes(fine.to_bytes()).get_fdata()
    np.testing.assert_array_equal(again, [[[0.25, -3.875]]])


def test_a_fourth_axis_of_length_one_does_not_count():
    image = nib.Nifti1Image(np.zeros((*SHAPE, 1), np.int16), np.eye(4))
    assert from_nifti(image, "scan").shape == SHAPE


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((*SHAPE, 2), np.int16), r"4 dimensions \(5, 6, 7, 2\)"),
        (np.zeros(SHAPE[:2], np.int16), r"2 dimensions \(5, 6\)"),
        (np.zeros(SHAPE, [(c, "u1") for c in "RGB"]), "a colour picture"),
    ],
)
def test_what_is_no_volume_is_refused(values, reason):
    with pytest.raises(UserError, match=reason):
        from_nifti(nib.Nifti1Image(values, np.eye(4)), "lesion label")


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_nearest_ras_follows_nibabel(codes):
    rng = np.random.default_rng(0)
    turn = nib.orientations.axcodes2ornt(codes)
    file = nib.Nifti1Image(rng.normal(size=SHAPE), np.eye(4)).as_reoriented(turn)
    values, affine = nearest_ras(from_nifti(file, "scan"))
    expected = nib.as_closest_canonical(file)
    np.testing.assert_allclose(values.T, expected.get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(affine, expected.affine, atol=1e-9)


def test_only_as_many_values_as_voxels_fit():
    with pytest.raises(ValueError, match="voxels at the place"):
        Image(np.zeros(SHAPE), np.eye(4), "scan").holding(np.zeros((5, 6, 8)), "map")


def test_order_of_a_turned_grid():
    """Axes go to those that they lie nearest to, 40 degrees away as well."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("zyx", [40, 10, -10], degrees=True).as_matrix()
    image = Image(np.arange(210).reshape(SHAPE), turn, "map")
    np.testing.assert_array_equal(in_order_of(image, np.eye(4)).voxels, image.voxels)


def test_steps_of_upright_and_leaning_axes():
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    upright = np.eye(4)
    upright[:3, :3] = turn @ np.diag([1.2, 0.9, 5.0])
    assert voxel_steps(upright) == pytest.approx((5.0, 0.9, 1.2))
    leaning = upright.copy()
    leaning[:3, 2] += [0, -2.0, 0]
    np.testing.assert_array_equal(voxel_steps(leaning), leaning[:3, [2, 1, 0]])
