"""Several kinds of image and several acquisitions in one series."""

import nibabel as nib
import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.io.image import to_nifti
from adn_jax.scans.dicom.choice import choice_flags, choose
from adn_jax.scans.dicom.headers import read_headers
from adn_jax.scans.dicom.series import find_series
from adn_jax.scans.read import read_scan
from tests.scans.dicom.files import head_of_blocks, uid, write_series

SOFT = head_of_blocks(12)

OTHER = SOFT[:, ::-1]
"""What must not be mixed with it: the same head, lying the other way round."""

EVEN = [5.0 * index for index in range(12)]

UIDS = [uid("other", index) for index in range(40)]


def write_other(folder, z_mm=EVEN, hu=OTHER, first=13, **tags):
    """Images of another kind or acquisition in the same series."""
    tags = {"SOPInstanceUID": UIDS[: len(z_mm)], "AcquisitionNumber": 2} | tags
    name = f"other{len(list(folder.glob('*')))}_{{:03d}}.dcm"
    write_series(folder, hu[: len(z_mm)], z_mm=z_mm, name=name, first=first, **tags)


def values_of(scan):
    image = nib.as_closest_canonical(to_nifti(scan.image))
    return np.asarray(image.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1]


def assert_soft(folder):
    scan = read_scan(folder)
    np.testing.assert_array_equal(values_of(scan), SOFT)
    return scan.flags


def assert_chosen(folder):
    """Every image of the chosen volume, and no other one, is not `other`."""
    found = find_series(read_headers(sorted(folder.iterdir())))
    chosen = choose(found, "", folder)
    assert len(chosen.frames) == 12
    assert not any(path.name.startswith("other") for path in chosen.files)
    return choice_flags(found, chosen, 0)


KINDS = {
    "kernel": ({"ConvolutionKernel": "H60s"}, "ConvolutionKernel H60s instead of H30s"),
    "another soft kernel": ({"ConvolutionKernel": "H31s"}, "H31s instead of H30s"),
    "derived": ({"ImageType": ("DERIVED", "SECONDARY")}, "ImageType"),
    "virtual energy": (
        {"ImageType": ("ORIGINAL", "PRIMARY", "AXIAL", "MONO_E_40KEV")},
        "MONO_E_40KEV",
    ),
    "tube voltage": ({"KVP": 80}, "KVP 80.0 instead of none"),
    "agent": ({"ContrastBolusAgent": "Ultravist 370"}, "Ultravist 370 instead of none"),
    "words": ({"SeriesDescription": "Head mit KM"}, "Head mit KM"),
    "position": ({"PatientPosition": "HFP"}, "PatientPosition HFP instead of HFS"),
    "thickness": ({"SliceThickness": 1.0}, "SliceThickness 1.0 instead of 5.0"),
    "field of view": ({"PixelSpacing": (2.45, 2.45)}, "another size"),
    "unit": ({"RescaleType": "US"}, "RescaleType US instead of none"),
    "part": (
        {"BodyPartExamined": "NECK", "SeriesDescription": "x"},
        "SeriesDescription x",
    ),
}


@pytest.mark.parametrize("shift_mm", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_image_are_not_mixed(tmp_path, kind, shift_mm):
    tags, said = KINDS[kind]
    tags = {key: [value] * 12 for key, value in tags.items()}
    write_series(tmp_path, SOFT)
    write_other(tmp_path, [z + shift_mm for z in EVEN], **tags)
    (flag,) = assert_chosen(tmp_path)
    assert "images of another kind are in the series" in flag
    assert "left out (12): " in flag
    assert said in flag


def test_the_soft_kernel_is_read_though_it_comes_last_with_odd_numbers(tmp_path):
    write_series(
        tmp_path,
        SOFT,
        name="b{:03d}.dcm",
        first=101,
        AcquisitionNumber=[1 - i % 2 for i in range(12)],
    )
    write_other(tmp_path, first=1, ConvolutionKernel="H60s", AcquisitionNumber=1)
    (flag,) = assert_soft(tmp_path)
    assert "ConvolutionKernel H60s instead of H30s" in flag


@pytest.mark.parametrize("z_mm", [30.0, 31.0, 100.0])
def test_a_key_image_is_left_out(tmp_path, z_mm):
    write_series(tmp_path, SOFT, first=2)
    write_other(tmp_path, [z_mm], first=1, ImageType=("DERIVED", "SECONDARY"))
    (flag,) = assert_soft(tmp_path)
    assert "left out (1): ImageType" in flag


PLACES = {
    "at the same places": EVEN,
    "between them": [z + 2.5 for z in EVEN],
    "nearly there": [z + 0.4 for z in EVEN],
    "higher": [z + 11.0 for z in EVEN],
    "from the head down": EVEN[::-1],
    "between them, from the head down": [z + 1.5 for z in EVEN[::-1]],
    "in part": EVEN[4:9],
    "in part, between": [z + 2.0 for z in EVEN[4:9]],
    "finer": [2.5 * index + 1.0 for index in range(20)],
    "one slice": EVEN[5:6],
}

ORDERS = {
    "numbered on": {},
    "numbered anew": {"first": 1},
    "one acquisition": {"AcquisitionNumber": 1},
    "acquisitions by slice": {"AcquisitionNumber": [*range(21, 41)]},
    "by time": {
        "first": 1,
        "AcquisitionNumber": 1,
        "AcquisitionTime": [f"1020{z:02d}" for z in range(20)],
    },
}


@pytest.mark.parametrize(
    ("order", "place", "aside_mm"),
    [
        *[(order, place, 0.0) for order in ORDERS for place in PLACES],
        *[("numbered on", place, 10.0) for place in PLACES],
    ],
)
def test_of_several_acquisitions_one_is_taken(tmp_path, order, place, aside_mm):
    z_mm = PLACES[place]
    time = {"AcquisitionTime": "101500"} if order == "by time" else {}
    write_series(tmp_path, SOFT, **time)
    tags = {
        key: value[: len(z_mm)] if isinstance(value, list) else value
        for key, value in ORDERS[order].items()
    }
    other = np.resize(OTHER, (len(z_mm), 64, 64))
    places = [(-80.0 + aside_mm, -60.0, z) for z in z_mm]
    write_other(tmp_path, z_mm, other, ImagePositionPatient=places, **tags)
    (flag,) = assert_chosen(tmp_path)
    assert flag.endswith(f"used, {len(z_mm)} images are left out")


def test_several_acquisitions_are_told(tmp_path):
    write_series(tmp_path, SOFT)
    write_other(tmp_path, [z + 2.0 for z in EVEN])
    (flag,) = assert_soft(tmp_path)
    assert flag == (
        "there are up to 2 images at 12 of 12 places; those of one acquisition are "
        "used, 12 images are left out"
    )


ALIKE = {
    "no order": (lambda part, index: uid(part, index), False),
    "by acquisition": (lambda part, index: f"1.2.{part + 1}.{index + 1}", True),
    "counted on": (lambda part, index: f"1.2.{90 + 12 * part + index}", True),
}
"""Instance UIDs, and whether they tell two acquisitions apart."""


@pytest.mark.parametrize("way", ALIKE)
def test_acquisitions_that_headers_do_not_tell_apart_are_told(tmp_path, way):
    uid_of, told = ALIKE[way]
    for part, hu in enumerate((SOFT, OTHER)):
        uids = [uid_of(part, index) for index in range(12)]
        tags = {"AcquisitionNumber": None, "SOPInstanceUID": uids}
        for path, name in zip(
            write_series(tmp_path, hu, name="new{:d}.dcm", **tags), uids, strict=True
        ):
            path.rename(tmp_path / f"{name}.dcm")
    if told:
        (flag,) = assert_soft(tmp_path)
    else:
        (flag,) = read_scan(tmp_path).flags
    assert flag.startswith("there are up to 2 images at 12 of 12 places; ")
    assert ("those of one acquisition are used" in flag) is told
    assert ("headers do not tell which belong together" in flag) is not told


OVERLAP = [40.0 + z for z in EVEN]

OVERLAPS = {
    "two without numbers": (EVEN, None),
    "one image again": (EVEN[5:6], 6),
    "in four places": (OVERLAP, 9),
    "in four places, numbered anew": (OVERLAP, 1),
    "in four places, without numbers": (OVERLAP, None),
}
"""Heights and first number of a second acquisition; None: neither has numbers."""


@pytest.mark.parametrize("way", OVERLAPS)
def test_uids_tell_what_numbers_do_not(tmp_path, way):
    other_mm, first = OVERLAPS[way]
    for part, z_mm in enumerate((EVEN, other_mm)):
        uids = [f"1.2.{part + 1}.{index + 1}" for index in range(len(z_mm))]
        tags = {"AcquisitionNumber": None, "SOPInstanceUID": uids}
        tags |= {} if first else {"InstanceNumber": [None] * len(z_mm)}
        number = first if part and first else 1
        name = f"{'other' * part}{{:03d}}.dcm"
        write_series(
            tmp_path, SOFT[: len(z_mm)], z_mm=z_mm, name=name, first=number, **tags
        )
    found = find_series(read_headers(sorted(tmp_path.iterdir())))
    chosen = choose(found, "", tmp_path)
    (flag,) = choice_flags(found, chosen, 0)
    shared = {*EVEN} & {*other_mm}
    assert flag.endswith(f"acquisition are used, {len(shared)} images are left out")
    assert len(chosen.frames) == len({*EVEN} | {*other_mm})
    used = {
        frame.path.name.startswith("other")
        for frame in chosen.frames
        if frame.position[2] in shared
    }
    assert len(used) == 1


def test_a_whole_acquisition_counts_more_than_one_that_was_broken_off(tmp_path):
    write_other(tmp_path, EVEN[:5], first=1, AcquisitionNumber=1)
    write_series(tmp_path, SOFT, first=6, AcquisitionNumber=2)
    (flag,) = assert_soft(tmp_path)
    assert "5 images are left out" in flag


BASE = [2.5 * index for index in range(8)]

VERTEX = [20.0 + 5 * index for index in range(6)]

STACKS = {
    "one after the other": {},
    "numbered anew": {"first": 1},
    "numbered before": {"first": 1, "AcquisitionNumber": 0},
    "from the head down": {"InstanceNumber": [*range(30, 24, -1)]},
    "of another thickness": {"SliceThickness": 5.0},
    "of another voltage": {"KVP": "140"},
    "of another type": {"ImageType": ("ORIGINAL", "PRIMARY", "AXIAL", "ADD")},
    "of one acquisition": {"AcquisitionNumber": 1},
    "rotation by rotation": {"AcquisitionNumber": [2, 2, 2, 3, 3, 3]},
    "slice by slice": {"AcquisitionNumber": [*range(2, 8)]},
    "at another time": {"AcquisitionTime": "102030", "StudyTime": "102000"},
}


@pytest.mark.parametrize("way", STACKS)
@pytest.mark.parametrize("gap_mm", [-1.2, 2.5])
def test_stacks_that_follow_each_other_are_one_volume(tmp_path, way, gap_mm):
    z_mm = [z + gap_mm for z in VERTEX]
    tags = {
        key: [value] * 6 if isinstance(value, tuple) else value
        for key, value in STACKS[way].items()
    }
    write_series(tmp_path, SOFT[:8], z_mm=BASE, SliceThickness=2.5)
    if "InstanceNumber" in tags:
        write_other(tmp_path, z_mm[::-1], SOFT[:6][::-1])
    else:
        write_other(tmp_path, z_mm, SOFT[:6], **tags)
    scan = read_scan(tmp_path)
    assert scan.flags == ()
    assert scan.source["geometry"]["slice_distances_mm"][1] == max(5, 2.5 + gap_mm)
    values = values_of(scan)
    np.testing.assert_allclose(values[0], SOFT[0], atol=1e-3)
    np.testing.assert_allclose(values[-1], SOFT[5], atol=1e-3)
    assert len(scan.source["series"]) == 1
    assert scan.source["series"][0]["slices"] == 14


def test_two_slices_where_stacks_meet_are_told(tmp_path):
    write_series(tmp_path, SOFT[:6], z_mm=EVEN[:6])
    write_other(tmp_path, EVEN[4:], np.concatenate([OTHER[4:6], SOFT[6:]]))
    (flag,) = assert_soft(tmp_path)
    assert "up to 2 images at 2 of 12 places" in flag


def test_slices_that_fill_each_others_gaps_are_one_volume(tmp_path):
    write_series(tmp_path, SOFT[::2], z_mm=EVEN[::2])
    write_other(tmp_path, EVEN[1::2], SOFT[1::2])
    assert assert_soft(tmp_path) == ()


@pytest.mark.parametrize("seed", range(4))
def test_numbers_out_of_order_mean_nothing(tmp_path, seed):
    numbers = np.random.default_rng(seed).permutation(12) + 1
    write_series(
        tmp_path,
        SOFT,
        z_mm=[1.0 * z for z in range(12)],
        InstanceNumber=[int(one) for one in numbers],
    )
    (volume,) = find_series(read_headers(sorted(tmp_path.iterdir())))
    assert len(volume.frames) == 12


def test_ten_phases_are_one_volume_told_as_ten(tmp_path):
    for phase in range(10):
        write_series(
            tmp_path,
            SOFT + phase,
            name=f"{phase}_{{:03d}}.dcm",
            first=1 + 12 * phase,
            AcquisitionNumber=phase + 1,
            SOPInstanceUID=[uid(phase, index) for index in range(12)],
        )
    (flag,) = assert_soft(tmp_path)
    assert "up to 10 images at 12 of 12 places" in flag


def test_a_volume_of_a_series_is_named_by_its_number(tmp_path):
    write_series(tmp_path, SOFT)
    write_other(tmp_path, ConvolutionKernel="H60s")
    found = find_series(read_headers(sorted(tmp_path.iterdir())))
    assert choose(found, "2", tmp_path).facts["kernel"] == "H30s"
    assert choose(found, "head", tmp_path).facts["kernel"] == "H30s"
    with pytest.raises(UserError, match="no series"):
        choose(found, "9", tmp_path)


JITTER = {
    "by 0.0002, every other slice": lambda i: (i % 2) * 0.0002,
    "by 0.001, at random": lambda i: ((37 * i) % 11 - 5) * 0.0002,
    "one slice": lambda i: 0.002 * (i == 3),
}


@pytest.mark.parametrize("way", JITTER)
@pytest.mark.parametrize("jpeg", [False, True])
def test_orientations_that_jitter(tmp_path, way, jpeg):
    turns = [(1.0, t, 0.0, -t, 1.0, 0.0) for t in map(JITTER[way], range(12))]
    write_series(tmp_path, SOFT, ImageOrientationPatient=turns, jpeg=jpeg)
    assert assert_soft(tmp_path) == ()


def test_slices_that_are_turned_are_told_and_keep_their_centres(tmp_path):
    t = np.deg2rad(1.0)
    turn = (1.0, 0.0, 0.0, 0.0, float(np.cos(t)), float(np.sin(t)))
    turns = [(1.0, 0, 0, 0, 1.0, 0)] * 6 + [turn] * 6
    write_series(tmp_path, SOFT, ImageOrientationPatient=turns)
    scan = read_scan(tmp_path)
    assert any("turned against each other, by up to 1.4 mm" in f for f in scan.flags)


def test_pixel_sizes_that_jitter(tmp_path):
    sizes = [(2.5, 2.5) if i % 2 else (2.5001, 2.4999) for i in range(12)]
    write_series(tmp_path, SOFT, PixelSpacing=sizes)
    assert assert_soft(tmp_path) == ()
