import pickle
import shutil

import nibabel as nib
import numpy as np
import PIL.Image
import pydicom
import pytest
from scipy import ndimage

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.datasets.aisd.case import AisdCase
from adn_jax.datasets.aisd.files import Copy
from adn_jax.errors import UserError
from adn_jax.io.image import Image, onto_voxels
from adn_jax.scans.hounsfield import AIR_HU
from tests.datasets.aisd.download import (
    DISTANCE_MM,
    SPACING_MM,
    FakeHead,
    fake_head,
    write_case,
    write_ct,
)

NAME = "0073410"

SETTINGS = PrepareSettings()


def case_in(root, name=NAME, **changes) -> AisdCase:
    folder = root / "dicom-1" / name / "CT"
    pieces = {
        "masks": root / "mask" / "mask" / name,
        "pictures": root / "image" / "image" / name,
        "ct": Copy("dicom-1", folder, len(list(folder.glob("*")))),
    }
    return AisdCase(name, **(pieces | changes))


def load(case, **reading):
    return case.load(SETTINGS, ReadSettings(**reading))


def refusal(case, **reading) -> str:
    with pytest.raises(UserError) as caught:
        load(case, **reading)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sharp_head(slices: int = 12) -> FakeHead:
    """A head whose infarct is seen exactly where it is labelled: 80 HU in 30 HU."""
    head = fake_head(slices=slices)
    infarct = np.isin(head.label, SETTINGS.infarct_labels)
    tissue = (head.hu > 0) & (head.hu < 100)
    hu = np.where(infarct, 80, np.where(tissue, 30, head.hu))
    return FakeHead(hu.astype(np.int16), head.label)


def label_centre_mm(folder, head: FakeHead) -> np.ndarray:
    """Where the labelled pixels lie on average, by the DICOM headers (RAS)."""
    places = []
    for path, label in zip(sorted(folder.iterdir()), head.label, strict=True):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        step_down, step_right = map(float, header.PixelSpacing)
        for y, x in np.argwhere(np.isin(label, SETTINGS.infarct_labels)):
            corner = np.array(header.ImagePositionPatient, float)
            places.append(corner + row * x * step_right + column * y * step_down)
    return np.mean(places, axis=0) * [-1, -1, 1]


def image_centre_mm(lesion: Image) -> np.ndarray:
    """Where the labelled voxels lie on average (RAS)."""
    centre = ndimage.center_of_mass(lesion.voxels)
    return nib.affines.apply_affine(lesion.affine, centre)


def test_the_label_lies_on_the_scan_voxel_by_voxel(download):
    given = load(case_in(download.folder, "0073465"))
    np.testing.assert_array_equal(given.lesion.voxels, download.truth("0073465"))
    assert onto_voxels(given.lesion, given.scan.image).shape == given.lesion.shape
    assert given.lesion.voxels.dtype == np.uint8


GAP = [12.0 * i + 6.0 * (i > 6) for i in range(12)]


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"tilt_deg": 22.0},
        {"tilt_deg": -17.0},
        {"z_mm": GAP},
        {"z_mm": GAP, "tilt_deg": 15.0},
    ],
    ids=["straight", "tilted", "tilted back", "uneven", "uneven and tilted"],
)
def test_the_label_takes_the_way_of_the_scan(tmp_path, tags):
    head = sharp_head()
    write_case(tmp_path, NAME, head, **tags)
    case = case_in(tmp_path)
    given = load(case)
    hu, lesion = given.scan.image.voxels, given.lesion.voxels
    in_brain = ndimage.minimum_filter(hu, 3) > 29
    in_brain &= ndimage.maximum_filter(hu, 3) < 81
    certain = in_brain & (abs(hu - 55) > 0.01)
    np.testing.assert_array_equal(lesion[certain], hu[certain] >= 55)
    assert lesion[certain].sum() > 200
    if "z_mm" not in tags:
        off = image_centre_mm(given.lesion) - label_centre_mm(case.ct.path, head)
        assert abs(off).max() < 0.25 * SPACING_MM


def test_slices_that_are_numbered_from_the_head_down(tmp_path):
    """Rows to the front: the order of GDCM then goes down, and so do the PNG."""
    head = sharp_head()
    write_case(
        tmp_path,
        NAME,
        head,
        z_mm=[-DISTANCE_MM * i for i in range(12)],
        ImageOrientationPatient=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    )
    case = case_in(tmp_path)
    given = load(case)
    assert given.scan.source["orientation"]["pictures"] == "as stored"
    expected = label_centre_mm(case.ct.path, head)
    np.testing.assert_allclose(image_centre_mm(given.lesion), expected, atol=1e-3)


def test_file_names_and_instance_numbers_do_not_matter(tmp_path):
    head = sharp_head()
    write_case(tmp_path, NAME, head, InstanceNumber=list(range(12, 0, -1)))
    folder = tmp_path / "dicom-1" / NAME / "CT"
    names = [path.name for path in sorted(folder.iterdir())]
    for path, other in zip(sorted(folder.iterdir()), names[::-1], strict=True):
        path.rename(folder / f"x{other}")
    given = load(case_in(tmp_path))
    infarct = np.isin(head.label, SETTINGS.infarct_labels)[:, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(given.lesion.voxels, infarct)


def test_turned_pictures_turn_the_label_and_are_told(download):
    given = load(case_in(download.folder, "0073465"))
    (note,) = given.scan.source["fixed"]
    assert note.startswith("the PNG show the DICOM slices top down, left right (")
    assert note.endswith("the label was turned so")
    assert "turned the label by hand" in given.scan.flags[0]


def test_the_trunk_is_cut_off(download):
    given = load(case_in(download.folder, "0091519"))
    assert given.scan.image.shape == (64, 64, 12)
    truth = download.truth("0091519")[:, :, 24:]
    np.testing.assert_array_equal(given.lesion.voxels, truth)
    assert given.scan.image.affine[2, 3] == pytest.approx(24 * 5.0)
    assert given.scan.source["fixed"] == [
        "the trunk is cut off: slices 24 to 35 are kept"
    ]


def test_the_trunk_is_cut_off_tilted_slices(tmp_path):
    head = sharp_head(slices=36)
    places = [5.0 * i for i in range(36)]
    write_case(tmp_path, "0091519", head, z_mm=places, tilt_deg=12.0)
    case = case_in(tmp_path, "0091519")
    given = load(case)
    kept = FakeHead(head.hu, head.label * (np.arange(36) >= 24)[:, None, None])
    expected = label_centre_mm(case.ct.path, kept)
    np.testing.assert_allclose(image_centre_mm(given.lesion), expected, atol=0.3)


def test_the_label_rule_is_that_of_the_settings(download):
    case = case_in(download.folder, "0073465")
    given = case.load(PrepareSettings(infarct_labels=(4,)), ReadSettings())
    truth = download.truth("0073465", (4,))
    np.testing.assert_array_equal(given.lesion.voxels, truth)


def test_a_label_without_infarct_is_empty_and_flagged(tmp_path):
    write_case(tmp_path, NAME, fake_head(labels=(4,)))
    given = load(case_in(tmp_path))
    assert not given.lesion.voxels.any()
    (flag,) = given.scan.flags
    assert flag == "no voxel of the label counts as infarct (1, 2, 3, 5)"


def test_what_the_record_says(download):
    given = load(case_in(download.folder, "0226300", ct=packed_copy(download)))
    source = given.scan.source
    assert given.scan.name == "0226300"
    assert source["images"] == "dicom"
    assert source["archive"] == "dicom-1"
    assert source["slices"] == 12
    assert source["orientation"]["explained"] > 0.99
    assert source["series"][0]["protocol"] == "03headCTA"
    assert source["geometry"]["gantry_tilt_deg"] == 0
    assert any("contrast" in flag for flag in given.scan.flags)


def packed_copy(download, name="0226300") -> Copy:
    return Copy("dicom-1", download.folder / "dicom-1" / f"{name}.tar.gz", None)


def test_a_stated_range_of_hu_is_that_of_the_dicom(tmp_path):
    write_case(tmp_path, NAME, sharp_head())
    said = refusal(case_in(tmp_path), hu_range=(-17.0, 80.0))
    assert "which is not what --hu-range -17 80 says" in said


@pytest.mark.parametrize("tilt_deg", [0.0, 15.0])
def test_a_stated_range_holds_on_tilted_slices(tmp_path, tilt_deg):
    head = sharp_head()
    clipped = FakeHead(head.hu.clip(0, 80), head.label)
    write_case(tmp_path, NAME, clipped, tilt_deg=tilt_deg)
    given = case_in(tmp_path).load(SETTINGS, ReadSettings(hu_range=(0.0, 80.0)))
    assert "values were clipped to 0 to 80 HU" in given.scan.flags[-1]
    assert not any("are these HU?" in flag for flag in given.scan.flags)


def test_a_damaged_archive_of_a_case_is_named(download):
    copy = packed_copy(download, "0019983")
    message = refusal(case_in(download.folder, "0019983", ct=copy))
    assert "0019983.tar.gz is damaged or not unpacked to its end" in message


def test_other_numbers_of_slices_are_refused(download):
    message = refusal(case_in(download.folder, "0226134"))
    assert "the PNG are 13 slices of 64 x 64 pixels but DICOM has 8 slices" in message


def test_values_that_are_no_labels_are_refused(tmp_path):
    write_case(tmp_path, NAME, fake_head())
    path = tmp_path / "mask" / "mask" / NAME / "003.png"
    PIL.Image.fromarray(np.full((64, 64), 255, np.uint8)).save(path)
    message = refusal(case_in(tmp_path))
    assert "holds the value 255; known are 0 to 5" in message


def test_pictures_and_masks_of_other_sizes_are_refused(tmp_path):
    write_case(tmp_path, NAME, fake_head())
    (tmp_path / "image" / "image" / NAME / "011.png").unlink()
    message = refusal(case_in(tmp_path))
    assert "there are 11 slices of 64 x 64 pixels in" in message
    assert "but 12 slices of 64 x 64 in" in message


def test_the_pictures_of_another_patient_are_refused(tmp_path):
    head, other = fake_head(), fake_head(3)
    other.hu[:, 20:, :] = other.hu[:, :-20, :].copy()
    write_case(tmp_path, NAME, head)
    shutil.rmtree(tmp_path / "image" / "image" / NAME)
    write_case(tmp_path / "other", NAME, other)
    pictures = tmp_path / "other" / "image" / "image" / NAME
    assert "no certain place" in refusal(case_in(tmp_path, pictures=pictures))


def test_without_pictures_there_is_a_flag(tmp_path):
    write_case(tmp_path, NAME, fake_head())
    given = load(case_in(tmp_path, pictures=None))
    assert "nothing tells whether the label lies right" in given.scan.flags[0]


def test_of_two_series_the_one_with_as_many_slices_is_read(tmp_path):
    head = fake_head()
    write_case(tmp_path, NAME, head, number=3)
    folder = tmp_path / "dicom-1" / NAME / "CT"
    thin = [6.0 * i for i in range(20)]
    write_ct(folder, fake_head(slices=20), number=7, name="c{:03d}.dcm", z_mm=thin)
    given = load(case_in(tmp_path))
    assert given.scan.image.shape == (64, 64, 12)
    assert given.scan.source["chosen"] == "3"
    assert given.scan.source["fixed"] == [
        "series 3 is read instead of 7: it has as many slices (12) as there are PNG"
    ]
    message = refusal(case_in(tmp_path), series="7")
    assert "DICOM has 20 slices" in message


def test_from_png_alone(tmp_path):
    head = sharp_head()
    write_case(tmp_path, NAME, head)
    case = case_in(tmp_path, ct=None)
    given = load(case, aisd_spacing_mm=(DISTANCE_MM, SPACING_MM, SPACING_MM))
    expected = np.isin(head.label, SETTINGS.infarct_labels).transpose(2, 1, 0)
    np.testing.assert_array_equal(given.lesion.voxels, expected)
    shown = given.scan.image.voxels.transpose(2, 1, 0)
    tissue = (head.hu > 0) & (head.hu < 80)
    np.testing.assert_allclose(shown[tissue], head.hu[tissue], atol=0.2)
    assert (shown[head.hu == 900] == 1000).all()
    assert (shown[:, :2, :2] == AIR_HU).all()
    assert nib.aff2axcodes(given.scan.image.affine) == ("L", "P", "S")
    assert given.scan.flags[0] == (
        "read from 8-bit PNG: HU are assumed linear from 0 to 80, voxels 12 x 3 x 3 mm"
    )
    assert given.scan.source["images"] == "png"


def test_the_trunk_is_cut_off_pictures(download):
    given = load(case_in(download.folder, "0091519", ct=None))
    assert given.scan.image.shape == (64, 64, 12)
    assert given.lesion.shape == (64, 64, 12)
    assert "the trunk is cut off" in given.scan.source["fixed"][0]


def test_inputs_are_listed_for_the_checksum(download):
    case = case_in(download.folder, "0073465")
    files = case.files()
    assert len(files) == 36
    assert files == case.files()
    assert {path.suffix for path in files} == {".png", ".dcm"}
    packed = case_in(download.folder, "0226300", ct=packed_copy(download))
    assert packed.files()[-1].name == "0226300.tar.gz"
    assert len(case_in(download.folder, "0073465", ct=None).files()) == 24
    assert len(case_in(download.folder, "0073465", pictures=None).files()) == 24


def test_a_case_is_small_to_send(download):
    case = case_in(download.folder, "0073465")
    assert len(pickle.dumps(case)) < 2000
    assert pickle.loads(pickle.dumps(case)) == case
