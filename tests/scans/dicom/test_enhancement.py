import numpy as np
import pydicom
import pytest

from adn_jax.scans.dicom.choice import Vessels, told_by_vessels, vessel_areas_mm2
from adn_jax.scans.dicom.headers import read_headers
from adn_jax.scans.dicom.series import find_series
from adn_jax.scans.dicom.volume import bright_vessels
from adn_jax.scans.read import read_scan
from tests.scans.dicom.files import head_of_blocks, uid, write_series

VOXEL_MM = (2.5, 2.5, 5.0)

PLAIN = head_of_blocks()


def with_vessels(hu):
    """Two vessels through all slices, one across; 8 mL in all, where it is 8 slices."""
    hu = hu.copy()
    hu[:, 30:34, 24:26] = 180
    hu[:, 44:46, 30:34] = 140
    hu[4, 28:30, 36:48] = 250
    return hu


def ml(hu):
    areas = vessel_areas_mm2(hu.transpose(2, 1, 0).astype(np.float32), VOXEL_MM[:2])
    return areas.sum() * VOXEL_MM[2] / 1000


def test_vessels_and_nothing_else_are_bright():
    assert ml(PLAIN) == 0
    bright = with_vessels(PLAIN)
    volume = (bright != PLAIN).sum() * np.prod(VOXEL_MM) / 1000
    assert ml(bright) == pytest.approx(volume, rel=0.15)


def test_bone_air_and_noise_are_no_vessels():
    hu = PLAIN.copy()
    hu[:, 30:34, 30:34] = 900
    hu[:, 20:26, 30:36] = -800
    hu[:, 22:24, 32:34] = 300
    hu[:, 12:14, 30:34] = 300
    assert ml(hu) == 0
    noisy = np.where((PLAIN > 80) & (PLAIN < 100), 30, PLAIN) + np.random.default_rng(
        0
    ).normal(0, 15, PLAIN.shape)
    assert ml(noisy) == 0


@pytest.mark.shared
def test_a_real_scan_without_contrast(shared):
    image = read_scan(shared / "data" / "ge_head_ct").image
    across, down, distance = image.spacing_mm
    areas = vessel_areas_mm2(image.voxels, (across, down))
    assert areas.sum() * distance / 1000 < 3


def write_head(folder, hu, number, **tags):
    """A series of this number, told apart from others by `tags` alone; its files."""
    return write_series(
        folder,
        hu,
        number=number,
        name=f"{number}_{{:03d}}.dcm",
        SOPInstanceUID=[uid(number, index) for index in range(len(hu))],
        **{"SeriesDescription": "Pea", "ProtocolName": ""} | tags,
    )


def write_two(folder, enhanced, first=3, **tags):
    """A series, `enhanced`, and number 5 without vessels; the files of the first."""
    files = write_head(folder, enhanced, first, **tags)
    write_head(folder, PLAIN, 5, **tags)
    return files


BRIGHTER = (
    "headers do not tell which series is unenhanced; in 3 (Pea) vessels are brighter, "
    "so it is not used",
)


@pytest.mark.parametrize("more", [0, 4])
@pytest.mark.parametrize("first", [3, 7])
def test_where_no_word_tells_the_images_do(tmp_path, first, more):
    write_two(tmp_path, with_vessels(head_of_blocks(8 + more)), first)
    scan = read_scan(tmp_path)
    assert scan.source["chosen"] == "5"
    assert scan.source["series"][1]["vessels_ml"] > 4
    assert scan.flags == (
        "headers do not tell which series is unenhanced; in "
        f"{first} (Pea) vessels are brighter, so it is not used",
    )
    assert "as its header or its vessels tell" in scan.source["why"]


@pytest.mark.parametrize(
    "tags",
    [
        {"ProtocolName": "NCCT CTA Stroke"},
        {"ProtocolName": "STROKE NC CTA CTP"},
        {"ContrastBolusAgent": "Omnipaque"},
    ],
    ids=str,
)
def test_where_words_tell_the_same_of_all_the_images_decide(tmp_path, tags):
    write_two(tmp_path, with_vessels(head_of_blocks(12)), **tags)
    scan = read_scan(tmp_path)
    assert scan.source["chosen"] == "5"
    assert scan.flags == BRIGHTER


def test_both_with_contrast_and_alike_is_used_with_a_flag(tmp_path):
    write_two(tmp_path, PLAIN, ContrastBolusAgent="Omnipaque")
    used, alike = read_scan(tmp_path).flags
    assert "is used although it was taken with a contrast agent" in used
    assert "would serve as well" in alike


@pytest.mark.parametrize("agent", ["", "Omnipaque"])
def test_of_two_that_say_they_are_enhanced_the_darker_is_used_with_a_flag(
    tmp_path, agent
):
    write_two(
        tmp_path,
        with_vessels(head_of_blocks(12)),
        SeriesDescription="Venous phase post contrast",
        ContrastBolusAgent=agent,
    )
    scan = read_scan(tmp_path)
    assert scan.source["chosen"] == "5"
    assert [one["contrast"] for one in scan.source["series"]] == [True, True]
    assert scan.source["why"].endswith("its vessels are brighter")
    used, brighter = scan.flags
    assert "is used although it was taken with a contrast agent" in used
    assert "vessels are brighter, so it is not used" in brighter


def test_a_damaged_slice_hides_no_vessels(tmp_path):
    files = write_two(tmp_path, with_vessels(head_of_blocks(12)))
    files[0].write_bytes(files[0].read_bytes()[:4000])
    scan = read_scan(tmp_path)
    assert scan.source["chosen"] == "5"
    assert scan.flags[0] == BRIGHTER[0]
    assert scan.source["series"][1]["vessels_ml"] > 4


def test_a_series_too_damaged_to_measure_is_left_out_of_the_comparison(tmp_path):
    files = write_two(tmp_path, with_vessels(PLAIN))
    for file in files[4:]:
        file.write_bytes(file.read_bytes()[:4000])
    series = find_series(read_headers(sorted(tmp_path.glob("*.dcm"))))
    vessels = [bright_vessels(one) for one in series]
    assert vessels[0] is None
    assert vessels[1].areas_mm2.sum() == 0
    assert told_by_vessels(series, series, vessels)[0] is series[0]


@pytest.mark.parametrize(
    "tags",
    [
        {"ProtocolName": "Head W/O"},
        {"ContrastBolusAgent": "NO CONTRAST"},
        {"SeriesDescription": "HEAD WITHOUT CONTRAST"},
    ],
    ids=str,
)
def test_where_words_say_without_of_all_the_images_are_not_looked_at(tmp_path, tags):
    write_two(tmp_path, with_vessels(head_of_blocks(12)), **tags)
    scan = read_scan(tmp_path)
    assert scan.source["chosen"] == "3"
    assert "vessels_ml" not in scan.source["series"][0]
    assert scan.flags == ()


def calcified(slices):
    """Bright vessels in the lower four slices only, as in every head's base."""
    areas = np.where(np.arange(slices) < 4, 100.0, 0.0)
    return Vessels(5.0 * np.arange(slices), areas)


def test_a_part_of_a_head_is_compared_with_the_same_part():
    whole = calcified(20)
    vertex = Vessels(whole.heights_mm[-8:], whole.areas_mm2[-8:])
    elsewhere = Vessels(whole.heights_mm + 500, 0 * whole.areas_mm2)
    for other in (vertex, elsewhere):
        assert not whole.is_brighter(other)
        assert not other.is_brighter(whole)
    enhanced = Vessels(whole.heights_mm, whole.areas_mm2 + 50)
    assert enhanced.is_brighter(whole)
    assert enhanced.is_brighter(vertex)
    assert not vertex.is_brighter(enhanced)


def test_closer_slices_at_the_base_count_no_more():
    whole = calcified(20)
    close = np.r_[np.arange(0, 20, 1.0), whole.heights_mm[4:]]
    areas = np.interp(close, whole.heights_mm, whole.areas_mm2)
    volume = whole.ml(*whole.reach_mm)
    assert Vessels(close, areas).ml(*whole.reach_mm) == pytest.approx(volume)


@pytest.mark.shared
def test_a_repeat_of_the_vertex_is_no_unenhanced_head(shared, tmp_path):
    files = sorted(
        map(pydicom.dcmread, (shared / "data" / "ge_head_ct").glob("*.dcm")),
        key=lambda one: float(one.ImagePositionPatient[2]),
    )
    for number, some in ((2, files), (3, files[-10:])):
        for index, one in enumerate(some):
            one.SeriesNumber = number
            one.SeriesInstanceUID = uid("repeat", number)
            one.SOPInstanceUID = uid("repeat", number, index)
            one.SeriesDescription = "Head 5.0"
            one.save_as(tmp_path / f"{number}_{index}.dcm")
    scan = read_scan(tmp_path)
    assert scan.source["chosen"] == "2"
    assert not any("vessels" in flag for flag in scan.flags)


def test_words_count_more_than_images(tmp_path):
    for number, text in ((3, "CRANEO CON CONTRASTE"), (5, "CRANEO SIN CONTRASTE")):
        write_head(tmp_path, PLAIN, number, SeriesDescription=text)
    scan = read_scan(tmp_path)
    assert scan.source["chosen"] == "5"
    assert scan.flags == ()


@pytest.mark.parametrize("bright", [3, 5])
def test_vessels_that_contradict_the_words_are_told(tmp_path, bright):
    """Words that are not understood put the unenhanced series last."""
    for number, text in ((3, "Contrast: omitted"), (5, "HEAD DELAYED")):
        hu = with_vessels(PLAIN) if number == bright else PLAIN
        write_head(tmp_path, hu, number, SeriesDescription=text)
    scan = read_scan(tmp_path)
    assert scan.source["chosen"] == "5"
    said = (
        "words say that the series 3 (Contrast: omitted) is with contrast agent, but "
        "vessels are brighter in 5 (HEAD DELAYED), which is used; look which is "
        "unenhanced, and name it with --series"
    )
    assert scan.flags == ((said,) if bright == 5 else ())


@pytest.mark.parametrize("words", ["Head 5.0", "HEAD DELAYED", "CONTRAST TILTED"])
@pytest.mark.parametrize("bright", [3, 5])
def test_vessels_that_contradict_without_are_told(tmp_path, bright, words):
    """Whatever is said, or not, of a series beside the one chosen for its words."""
    for number, text in ((3, words), (5, "HEAD WITHOUT CONTRAST")):
        hu = with_vessels(PLAIN) if number == bright else PLAIN
        write_head(tmp_path, hu, number, SeriesDescription=text)
    scan = read_scan(tmp_path)
    assert scan.source["chosen"] == "5"
    said = (
        "words say that the series 5 (HEAD WITHOUT CONTRAST) is without contrast "
        f"agent, but vessels are brighter in it than in 3 ({words}); look which is "
        "unenhanced, and name it with --series"
    )
    assert scan.flags == ((said,) if bright == 5 else ())
    assert read_scan(tmp_path, series="5").flags == ()
