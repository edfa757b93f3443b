import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import dcm2niix
import gdcm
import nibabel as nib
import nibabel.processing
import numpy as np
import pydicom
import pytest
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid
from scipy import ndimage

from adn_jax.errors import UserError
from adn_jax.io.image import to_nifti
from adn_jax.scans.dicom import decode, volume
from adn_jax.scans.dicom.headers import PREAMBLE
from adn_jax.scans.dicom.volume import gap_flags, read_volume
from adn_jax.scans.read import read_scan
from tests.scans.dicom.files import (
    head_of_blocks,
    write_dicomdir,
    write_dose_report,
    write_enhanced,
    write_localiser,
    write_screen_shot,
    write_series,
)

HU = head_of_blocks()

EVEN = [5.0 * index for index in range(8)]

GAP = [0.0, 5, 10, 20, 25, 30, 35, 40]

UNEVEN = [0.0, 2.5, 5, 7.5, 10, 17.5, 25, 32.5]

FIRST = np.array([80.0, 60.0, 0.0])
"""Where the maker puts its first voxel, in RAS."""


def assert_upright(scan, hu=HU, distance_mm=5.0):
    """The scan holds these slices (z y x, DICOM's order), each where it belongs."""
    image = nib.as_closest_canonical(to_nifti(scan.image))
    np.testing.assert_allclose(
        np.asarray(image.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1], hu, atol=1e-3
    )
    place = image.affine @ (image.shape[0] - 1, image.shape[1] - 1, 0, 1)
    np.testing.assert_allclose(place[:3], FIRST, atol=1e-3)
    np.testing.assert_allclose(
        np.diag(image.affine)[:3], (2.5, 2.5, distance_mm), atol=1e-3
    )


PLAIN = {
    "as a scanner writes it": {},
    "lossless jpeg": {"jpeg": True},
    "names without ending": {"name": "IM{:04d}"},
    "from the head down": {"InstanceNumber": [*range(8, 0, -1)]},
    "numbers out of order": {"InstanceNumber": [1, 5, 2, 6, 3, 7, 4, 8]},
    "all with one number": {"InstanceNumber": 0},
    "without numbers": {"InstanceNumber": None, "SeriesNumber": None},
    "pairs as acquisitions": {"AcquisitionNumber": [1, 1, 2, 2, 3, 3, 4, 4]},
    "times that differ": {"StudyTime": ["101112"] * 4 + ["101542"] * 4},
    "currents that differ": {"XRayTubeCurrent": [*range(100, 180, 10)]},
    "of another maker": {"Manufacturer": "GE MEDICAL SYSTEMS"},
    "without a maker": {"Manufacturer": None, "PatientPosition": None},
    "12 of 16 bits": {"BitsStored": 12, "HighBit": 11},
}


@pytest.mark.parametrize("way", PLAIN)
def test_slices_are_read_however_they_are_written(tmp_path, way):
    write_series(tmp_path / "p7" / "dicom", HU, **PLAIN[way])
    scan = read_scan(tmp_path / "p7" / "dicom")
    assert scan.name == "p7"
    assert scan.flags == ()
    assert_upright(scan)
    assert scan.source["why"] == "it is the only series"
    assert scan.source["geometry"] == {
        "gantry_tilt_deg": 0.0,
        "slice_distances_mm": [5.0, 5.0],
        "straightened": False,
    }


def write_twelve_of_sixteen(folder, signed, place):
    """A series of 12 bits whose High Bit is 15; `place` lays out its stored values."""
    for path in write_series(folder, HU):
        dataset = pydicom.dcmread(path)
        stored = np.frombuffer(dataset.PixelData, "<i2").astype(int) - 1024 * signed
        dataset.BitsStored, dataset.HighBit = 12, 15
        dataset.PixelRepresentation = signed
        dataset.RescaleIntercept = 1024 * (signed - 1)
        dataset.PixelData = place(stored).astype("<i2").tobytes()
        dataset.save_as(path)


@pytest.mark.parametrize("signed", [0, 1])
def test_values_in_the_upper_bits(tmp_path, signed):
    """Old scanners leave the lowest bits unused, not the highest."""
    write_twelve_of_sixteen(tmp_path, signed, lambda stored: (stored << 4) + 7)
    assert_upright(read_scan(tmp_path))


@pytest.mark.parametrize("signed", [0, 1])
def test_a_wrong_high_bit_moves_nothing(tmp_path, signed):
    write_twelve_of_sixteen(tmp_path, signed, lambda stored: stored)
    assert_upright(read_scan(tmp_path))


@pytest.mark.parametrize("group", [2, 8])
def test_old_files_without_preamble_or_meta_header(tmp_path, group):
    for path in write_series(tmp_path, HU):
        content = path.read_bytes()[PREAMBLE + 4 :]
        if group == 8:
            length = int.from_bytes(content[8:12], "little")
            content = content[12 + length :]
        path.write_bytes(content)
    assert_upright(read_scan(tmp_path))


def test_one_series_out_of_a_folder_with_everything(tmp_path):
    write_localiser(tmp_path / "CD" / "1")
    write_series(tmp_path / "CD" / "deep" / "2", HU)
    write_series(tmp_path / "CD", HU, number=3, name="b{}", ConvolutionKernel="H60s")
    write_series(
        tmp_path / "CD" / "4",
        head_of_blocks(16),
        z_mm=[2.5 * index for index in range(16)],
        number=4,
        SeriesDescription="CTA 0.75",
    )
    write_screen_shot(tmp_path / "CD")
    write_dose_report(tmp_path / "CD")
    write_dicomdir(tmp_path / "CD")
    (tmp_path / "CD" / "viewer.exe").write_bytes(bytes(range(256)) * 8)
    scan = read_scan(tmp_path / "CD")
    assert_upright(scan)
    assert scan.flags == ()
    assert scan.source["chosen"] == "2"
    assert len(scan.source["series"]) == 6
    for words in ("localiser", "kernel is for bone", "contrast", "secondary capture"):
        assert words in scan.source["why"]
    thin = read_scan(tmp_path / "CD", series="cta")
    assert thin.image.shape[2] == 16
    assert "although it was taken with a contrast agent" in thin.flags[0]


@pytest.mark.parametrize("z_mm", [EVEN, GAP])
def test_a_multi_frame_file(tmp_path, z_mm):
    write_enhanced(tmp_path / "one" / "a.dcm", HU, z_mm)
    for path in (tmp_path / "one", tmp_path / "one" / "a.dcm"):
        scan = read_scan(path)
        whole = HU if z_mm is EVEN else np.insert(HU * 1.0, 3, HU[2:4].mean(0), axis=0)
        assert_upright(scan, whole)
        assert bool(scan.flags) == (z_mm is GAP)
    assert scan.name == "a"


def test_a_series_converted_to_one_file_is_what_it_was(tmp_path):
    """Its description then says "enhanced", which is no contrast agent."""
    series = [pydicom.dcmread(path) for path in write_series(tmp_path / "in", HU)]
    uids = generate_uid(), generate_uid()
    converted = LegacyConvertedEnhancedCTImage(series, uids[0], 3, uids[1], 1)
    assert "enhanced" in converted.SeriesDescription
    converted.save_as(tmp_path / "a.dcm")
    scan = read_scan(tmp_path / "a.dcm")
    assert_upright(scan)
    assert scan.flags == ()


def test_each_frame_has_its_own_rescale(tmp_path):
    """As highdicom writes them where the slices of a series differ."""
    rescales = [(1, -1024), (1, -1000), (2, -1024), (4, -2000)] * 2
    even = 4 * (HU // 4)  # whole numbers, by each slope
    write_enhanced(tmp_path / "a.dcm", even, EVEN, rescales)
    assert_upright(read_scan(tmp_path / "a.dcm"), even)


def in_steps_of(step, hu):
    """Tags of a series that stores HU as fractions in 16 bits, as SimpleITK does."""
    stored = np.round(hu / step).astype(np.int64).astype("<i2")
    return {
        "PixelRepresentation": 1,
        "RescaleSlope": str(step),
        "RescaleIntercept": 0,
        "PixelData": [image.tobytes() for image in stored],
    }


def test_values_beyond_what_the_type_holds_are_told(tmp_path):
    write_series(tmp_path / "fine", HU, **in_steps_of(0.001, HU))
    for given in (None, (-33.0, 33.0)):
        with pytest.raises(
            UserError,
            match=r"in steps of 0\.001, hold no more than "
            r"-32\.77 to 32\.77 HU.*in steps of 1 HU",
        ):
            read_scan(tmp_path / "fine", hu_range=given)
    write_series(tmp_path / "coarse", HU, **in_steps_of(0.1, HU))
    assert_upright(read_scan(tmp_path / "coarse"))


def test_missing_slices_are_interpolated_and_flagged(tmp_path):
    write_series(tmp_path, HU, z_mm=GAP)
    scan = read_scan(tmp_path)
    assert_upright(scan, np.insert(HU * 1.0, 3, HU[2:4].mean(0), axis=0))
    assert len(scan.flags) == 1
    assert "missing slices: about 1, after slice 3 (gaps up to 10.0" in scan.flags[0]
    assert scan.source["geometry"]["slice_distances_mm"] == [5.0, 10.0]


def test_every_second_slice_missing_is_told_by_the_numbers(tmp_path):
    paths = write_series(tmp_path / "in", head_of_blocks(16))
    for path in paths[1::2]:
        path.unlink()
    (flag,) = read_scan(tmp_path / "in").flags
    assert flag.startswith("missing slices: about 7, after slice 1, 2, 3, 4, 5, 6, 7 ")


def test_thin_slices_far_apart_by_plan_are_no_flag(tmp_path):
    write_series(tmp_path, HU, z_mm=[10.0 * index for index in range(8)])
    assert read_scan(tmp_path).flags == ()


def test_slices_that_lie_unevenly_by_plan_are_no_flag(tmp_path):
    write_series(tmp_path, HU, z_mm=UNEVEN)
    scan = read_scan(tmp_path)
    between = np.interp(np.arange(14) * 2.5, UNEVEN, np.arange(8))
    rows = np.stack(
        [
            (1 - place % 1) * HU[int(place)] + place % 1 * HU[min(int(place) + 1, 7)]
            for place in between
        ]
    )
    assert_upright(scan, rows, 2.5)
    assert scan.flags == ()
    assert scan.source["geometry"]["straightened"]


@pytest.mark.parametrize(
    ("distances", "missing"),
    [
        ((5, 5, 5, 5), None),
        ((2.5, 2.5, 7.5, 7.5), None),
        ((5, 5, 10, 5), "missing slices: about 1, after slice 3"),
        ((15, 5, 5, 5), "missing slices: about 2, after slice 1"),
        ((5, 5, 5, 10), "missing slices: about 1, after slice 4"),
        ((5, 10, 5, 10, 5), "missing slices: about 2, after slice 2, 4"),
        ((4, 4, 8, 8, 4, 4), "missing slices: about 2, after slice 3, 4"),
        ((2.5, 2.5, 5, 5, 7.5, 7.5), None),
        ((5, 5, 1, 5, 5, 5, 5, 1, 5, 5), None),
    ],
)
def test_gaps(distances, missing):
    flags = gap_flags(np.array(distances, float), np.zeros(len(distances), int))
    assert bool(flags) == (missing is not None)
    assert not flags or flags[0].startswith(missing)


@pytest.mark.parametrize("tilt", [18.0, -18.0])
@pytest.mark.parametrize("z_mm", [EVEN, UNEVEN])
@pytest.mark.parametrize("bits", [16, 12])
def test_a_tilted_gantry(tmp_path, tilt, z_mm, bits):
    sine, cosine = np.sin(np.deg2rad(tilt)), np.cos(np.deg2rad(tilt))
    i, j = np.meshgrid(np.arange(64), np.arange(64))
    hu = np.stack([field(80 - 2.5 * i, 60 - 2.5 * j * cosine, z + 2.5 * j * sine)
                   for z in z_mm])  # fmt: skip
    write_series(
        tmp_path, hu, tilt_deg=tilt, z_mm=z_mm, BitsStored=bits, HighBit=bits - 1
    )
    scan = read_scan(tmp_path)
    values = scan.image.voxels
    index = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij"), -1)
    truth = field(
        *np.moveaxis(nib.affines.apply_affine(scan.image.affine, index), -1, 0)
    )
    inside = ndimage.binary_erosion(values > -1000, np.ones((1, 9, 1)))
    assert inside.mean() > 0.7
    np.testing.assert_allclose(values[inside], truth[inside], atol=1.5)
    axes = scan.image.affine[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    np.testing.assert_allclose(abs(axes.T @ axes), np.eye(3), atol=1e-5)
    assert scan.source["geometry"]["gantry_tilt_deg"] == 18.0


def field(x, y, z):
    """HU that grow evenly in every direction (mm, RAS), between 40 and 800."""
    return np.round(300 + 1.0 * x + 1.5 * y + 2.0 * z)


def test_a_series_whose_slices_share_one_instance_is_read(tmp_path):
    write_series(tmp_path, HU, SOPInstanceUID="1.2.3")
    assert_upright(read_scan(tmp_path))


def test_slopes_padding_and_copies(tmp_path):
    hu = HU.copy()
    hu[:, :4] = -1024
    write_series(tmp_path, hu, RescaleIntercept=[-1024] * 7 + [-1034])
    for path in sorted(tmp_path.iterdir()):
        shutil.copy(path, path.with_suffix(".again"))
    hu[7] = np.maximum(hu[7] - 10, -1024)
    scan = read_scan(tmp_path)
    assert_upright(scan, hu)
    assert scan.source["copies_left_out"] == 8


def test_of_two_images_at_a_place_the_first_is_read_and_flagged(tmp_path):
    write_series(tmp_path, HU + 500, AcquisitionNumber=2, first=9)
    write_series(tmp_path, HU)
    scan = read_scan(tmp_path)
    assert_upright(scan)
    assert any(
        "there are up to 2 images at 8 of 8 places" in flag for flag in scan.flags
    )


def test_missing_rescale_intercept(tmp_path):
    hu = np.full((8, 64, 64), -1024, np.int16)
    hu[:, 8:-8, 8:-8] = 30
    write_series(tmp_path, hu, RescaleIntercept=None, RescaleSlope=None)
    scan = read_scan(tmp_path)
    assert_upright(scan, hu)
    assert "1024 taken off" in scan.flags[0]


def test_slices_without_the_intercept_of_the_others(tmp_path):
    for path in write_series(tmp_path, HU)[::3]:
        dataset = pydicom.dcmread(path)
        del dataset.RescaleIntercept
        dataset.save_as(path)
    scan = read_scan(tmp_path)
    assert_upright(scan)
    (flag,) = scan.flags
    assert flag.startswith("3 of 8 slices lack a Rescale Intercept; that of the other")


def test_a_slope_counts_without_an_intercept(tmp_path):
    for path in write_series(tmp_path, HU):
        dataset = pydicom.dcmread(path)
        stored = dataset.pixel_array // 2
        dataset.PixelData = stored.astype("<u2").tobytes()
        dataset.RescaleSlope = 2
        del dataset.RescaleIntercept
        dataset.save_as(path)
    scan = read_scan(tmp_path)
    hu = HU - (HU.astype(int) + 1024) % 2
    assert_upright(scan, hu)


def test_a_damaged_file_is_a_missing_slice(tmp_path):
    paths = write_series(tmp_path, HU)
    paths[3].write_bytes(paths[3].read_bytes()[:300])
    scan = read_scan(tmp_path)
    assert scan.image.shape[2] == 8
    assert any("missing slices: about 1, after slice 3" in flag for flag in scan.flags)


@pytest.mark.parametrize("step", [(0.0, 900.0, 5.0), (0.0, 0.0, 2000.0)])
def test_scattered_slices_are_refused(tmp_path, step):
    places = [tuple(index * one for one in step) for index in range(8)]
    write_series(tmp_path, HU, ImagePositionPatient=places)
    with pytest.raises(UserError, match="lie farther apart than a body is large"):
        read_scan(tmp_path)


def test_slices_know_their_files_in_order(tmp_path):
    paths = write_series(tmp_path / "in", HU, InstanceNumber=[*range(8, 0, -1)])
    read = read_volume(tmp_path / "in")
    assert [frame.path for frame in read.frames] == paths
    heights = read.stack.heights_mm
    np.testing.assert_allclose(heights, EVEN, atol=1e-3)
    middle = [np.median(one) for one in read.stack.values.transpose(2, 0, 1)]
    assert middle == [np.median(one) for one in HU]


@pytest.mark.parametrize("name", ["p3.zip", "p3.tar.gz"])
def test_archives_are_read_as_their_folder(tmp_path, name):
    paths = write_series(tmp_path / "in", HU)
    if name.endswith("zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as packed:
            for path in paths:
                packed.write(path, f"a/{path.name}")
    else:
        with tarfile.open(tmp_path / name, "w:gz") as packed:
            packed.add(tmp_path / "in", "a")
    scan = read_scan(tmp_path / name)
    assert scan.name == "p3"
    assert scan.source["file"] == name
    assert_upright(scan)


def test_messages_name_the_archive_and_not_where_it_was_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("notes.txt", "no images")
    with pytest.raises(UserError, match=r"a\.zip holds no DICOM series with images"):
        read_scan(tmp_path / "a.zip")


@pytest.mark.parametrize("jpeg", [False, True])
def test_slices_whose_pixels_are_cut_are_left_out(tmp_path, jpeg):
    paths = write_series(tmp_path, HU, jpeg=jpeg)
    paths[4].write_bytes(paths[4].read_bytes()[:-2000])
    scan = read_scan(tmp_path)
    assert_upright(
        scan, np.where(np.arange(8)[:, None, None] == 4, HU[[3, 5]].mean(0), HU)
    )
    assert "damaged DICOM files, left out: 1" in scan.flags
    assert any("missing slices: about 1, after slice 4" in flag for flag in scan.flags)


def test_truncated_pixels_are_refused(tmp_path):
    for path in write_series(tmp_path, HU, jpeg=True):
        path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="could not read the 8 slices"):
        read_scan(tmp_path)


SYNTAXES = (
    "JPEGLosslessProcess14",
    "JPEGLosslessProcess14_1",
    "JPEGLSLossless",
    "JPEG2000Lossless",
    "RLELossless",
    "ExplicitVRBigEndian",
    "ImplicitVRLittleEndian",
)


def store_as(path, syntax):
    """Write a file's pixels in another transfer syntax."""
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pixels_are_read_however_they_are_compressed(tmp_path, syntax):
    for path in write_series(tmp_path, HU):
        store_as(path, syntax)
    scan = read_scan(tmp_path)
    assert scan.flags == ()
    assert_upright(scan)


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLSLossless"])
def test_a_compressed_multi_frame_file(tmp_path, syntax):
    write_enhanced(tmp_path / "a.dcm", HU, EVEN)
    store_as(tmp_path / "a.dcm", syntax)
    assert_upright(read_scan(tmp_path))


@pytest.mark.parametrize("bits", [16, 12])
@pytest.mark.parametrize("syntax", ["", "JPEG2000Lossless", "JPEGLSLossless"])
def test_pixels_with_sign_slopes_and_padding(tmp_path, bits, syntax):
    hu = HU.copy()
    hu[:, :4] = -2000
    for path, values in zip(write_series(tmp_path, hu), hu, strict=True):
        dataset = pydicom.dcmread(path)
        dataset.PixelRepresentation = 1
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 2, 0
        stored = (values.astype(int) // 2) & (2**bits - 1)
        dataset.PixelData = stored.astype("<u2").tobytes()
        dataset.add_new("PixelPaddingValue", "SS", -1000)
        dataset.save_as(path)
        if syntax:
            store_as(path, syntax)
    assert_upright(read_scan(tmp_path), np.maximum(hu // 2 * 2, -1024))


def test_deflated_files_and_streams_in_pieces(tmp_path):
    for index, path in enumerate(write_series(tmp_path, HU, jpeg=True)):
        dataset = pydicom.dcmread(path)
        if index % 2:
            (stream,) = generate_frames(dataset.PixelData, number_of_frames=1)
            dataset.PixelData = encapsulate(
                [stream], fragments_per_frame=3, has_bot=False
            )
        else:
            dataset.decompress()
            dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path)
    assert_upright(read_scan(tmp_path))


ABORT = "'004' in path and __import__('os').abort()"


def test_a_stream_that_breaks_its_decoder_is_a_damaged_file(tmp_path, monkeypatch):
    breaking = tmp_path / "decode.py"
    lines = Path(decode.__file__).read_text().splitlines()
    lines.insert(lines.index("        try:") + 1, " " * 12 + ABORT)
    breaking.write_text("\n".join(lines))
    monkeypatch.setattr(decode, "__file__", str(breaking))
    write_series(tmp_path / "in", HU, jpeg=True)
    scan = read_scan(tmp_path / "in")
    assert "damaged DICOM files, left out: 1" in scan.flags
    assert any("missing slices: about 1, after slice 3" in flag for flag in scan.flags)


def test_pixels_that_no_decoder_reads_are_named(tmp_path):
    for path in write_series(tmp_path, HU, jpeg=True):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
        dataset.save_as(path)
    with pytest.raises(UserError, match=r"001\.dcm: its pixels \(MPEG2 .* cannot be"):
        read_scan(tmp_path)


def test_too_large_a_series_is_not_tried(tmp_path, monkeypatch):
    write_series(tmp_path, HU)
    monkeypatch.setattr(volume, "LARGEST_VOXEL_COUNT", 1000)
    with pytest.raises(UserError, match="too many for a head scan"):
        read_scan(tmp_path)


@pytest.mark.shared
def test_real_tilted_series_lies_where_dcm2niix_puts_it(shared, tmp_path):
    folder = shared / "data" / "ge_head_ct"
    read = read_volume(folder)
    scan = read_scan(folder)
    assert scan.flags == ()
    assert scan.source["geometry"]["gantry_tilt_deg"] == pytest.approx(18.5, abs=0.01)
    names = [frame.path.name for frame in read.frames]
    assert names == sorted(path.name for path in folder.iterdir())
    options = ["-g", "i", "-z", "n", "-b", "n", "-f", "slices", "-o", str(tmp_path)]
    subprocess.run([dcm2niix.bin, *options, str(folder)], check=True)
    (theirs,) = tmp_path.glob("*_Tilt_Eq_1.nii")
    theirs = nib.load(theirs).slicer[::8, ::8, ::3]
    ours = nib.processing.resample_from_to(
        to_nifti(scan.image), theirs, order=1, cval=-1024
    )
    one, two = ours.get_fdata(), theirs.get_fdata().clip(-1024)
    both = (one > -1000) & (two > -1000)
    assert both.mean() > 0.2
    assert np.median(abs(one - two)[both]) < 5
    assert np.corrcoef(one[both], two[both])[0, 1] > 0.99


def test_a_slice_that_was_not_fetched_is_named(tmp_path):
    paths = write_series(tmp_path / "in", HU)
    paths[3].unlink()
    paths[3].symlink_to("/annex/004.dcm")
    with pytest.raises(UserError, match=r"004\.dcm is a link whose target is missing"):
        read_scan(tmp_path / "in")
    paths[3].unlink()
    paths[3].write_text("/annex/objects/MD5E-s8000--0123.dcm\n")
    with pytest.raises(UserError, match=r"004\.dcm only says where the file is kept"):
        read_scan(tmp_path / "in")


def test_linked_folders_are_searched(tmp_path):
    write_series(tmp_path / "store", HU)
    write_series(tmp_path / "dicom" / "cta", HU, number=7, SeriesDescription="CTA head")
    (tmp_path / "dicom" / "native").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "back").symlink_to(tmp_path / "dicom")
    scan = read_scan(tmp_path / "dicom")
    assert_upright(scan)
    assert scan.source["chosen"] == "2"
