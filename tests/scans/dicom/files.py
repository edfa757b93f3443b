"""Synthetic DICOM files: every way in which a scanner or an archive writes a CT."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    MediaStorageDirectoryStorage,
    SecondaryCaptureImageStorage,
    XRayRadiationDoseSRStorage,
)

INTERCEPT = -1024

SPACING_MM = 2.5

DISTANCE_MM = 5.0

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def uid(*parts: object) -> str:
    """A UID that is always the same for the same words."""
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return f"1.2.826.0.1.3680043.8.498.{int(digest[:24], 16)}"


def head_of_blocks(slices: int = 8, size: int = 64) -> np.ndarray:
    """HU (z y x): tissue in a box of bone, with a mark that breaks each symmetry."""
    hu = np.full((slices, size, size), -1000, np.int16)
    hu[:, 8:-8, 10:-10] = 800
    hu[:, 12:-12, 14:-14] = 30
    hu[1:3, 14:20, 16:26] = 90
    hu += np.arange(slices, dtype=np.int16)[:, None, None]
    return hu


def write_series(
    folder: Path,
    hu: np.ndarray,
    *,
    z_mm: Sequence[float] | None = None,
    tilt_deg: float = 0.0,
    number: int | None = 2,
    name: str = "{:03d}.dcm",
    first: int = 1,
    jpeg: bool = False,
    **tags: Any,
) -> list[Path]:
    """Write a CT series, a file a slice, from the feet up.

    `z_mm` is where each slice lies along the table. With a tilted gantry the slices are
    turned about x and shifted against each other, as on a scanner. `tags` are DICOM
    keywords; a list holds a value a slice (several numbers are a tuple), None leaves
    the element out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    z_mm = [DISTANCE_MM * z for z in range(len(hu))] if z_mm is None else z_mm
    paths = []
    for index, (values, z) in enumerate(zip(hu, z_mm, strict=True)):
        dataset = slice_dataset(values, z, tilt_deg, number, first + index)
        for keyword, value in tags.items():
            set_tag(dataset, keyword, value[index] if type(value) is list else value)
        if jpeg:
            compress(dataset, values)
        path = folder / name.format(first + index)
        save(dataset, path)
        paths.append(path)
    return paths


def slice_dataset(
    values: np.ndarray, z: float, tilt_deg: float, number: int | None, instance: int
) -> Dataset:
    """One CT slice whose first voxel lies at (-80, -60, z) mm, DICOM's axes."""
    sine, cosine = np.sin(np.deg2rad(tilt_deg)), np.cos(np.deg2rad(tilt_deg))
    dataset = pixels(Dataset(), values.astype(np.int32) - INTERCEPT)
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = uid("image", number, instance)
    dataset.StudyInstanceUID = uid("study")
    dataset.SeriesInstanceUID = uid("series", number)
    dataset.FrameOfReferenceUID = uid("frame")
    dataset.PatientID = "phantom"
    dataset.PatientName = "Phantom^Head"
    dataset.StudyDate = "20240102"
    dataset.StudyTime = "101112"
    dataset.Modality = "CT"
    dataset.Manufacturer = "SIEMENS"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SeriesNumber = number
    dataset.InstanceNumber = instance
    dataset.AcquisitionNumber = 1
    dataset.SeriesDescription = "Head 5.0 H30s"
    dataset.ProtocolName = "HeadSeq"
    dataset.BodyPartExamined = "HEAD"
    dataset.ConvolutionKernel = "H30s"
    dataset.PatientPosition = "HFS"
    dataset.SliceThickness = DISTANCE_MM
    dataset.PixelSpacing = [SPACING_MM, SPACING_MM]
    dataset.ImagePositionPatient = [-80.0, -60.0, float(z)]
    dataset.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, float(cosine), float(sine)]
    dataset.RescaleIntercept = INTERCEPT
    dataset.RescaleSlope = 1
    return dataset


def pixels(dataset: Dataset, stored: np.ndarray) -> Dataset:
    """Put unsigned 16-bit pixels into a dataset."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    dataset.PixelData = stored.astype("<u2").tobytes()
    return dataset


def set_tag(dataset: Dataset, keyword: str, value: Any) -> None:
    """Set an element, or leave it out for None."""
    if value is None:
        if keyword in dataset:
            delattr(dataset, keyword)
    else:
        setattr(dataset, keyword, [*value] if isinstance(value, tuple) else value)


def save(dataset: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> None:
    """Write a dataset with its preamble."""
    dataset.file_meta = getattr(dataset, "file_meta", FileMetaDataset())
    dataset.file_meta.setdefault("TransferSyntaxUID", syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2")
    dataset.save_as(path, enforce_file_format=True)


def write_localiser(folder: Path, number: int = 1, views: int = 2) -> None:
    """A scout view from the side and one from the front."""
    orientations = [[0.0, 1, 0, 0, 0, -1], [1.0, 0, 0, 0, 0, -1]]
    write_series(
        folder,
        head_of_blocks(views, 96),
        number=number,
        name="scout{:d}.dcm",
        ImageType=["ORIGINAL\\PRIMARY\\LOCALIZER"] * views,
        SeriesDescription="Topogram 0.6 T20s",
        ConvolutionKernel="T20s",
        ImageOrientationPatient=orientations[:views],
    )


def write_screen_shot(folder: Path, number: int = 99) -> None:
    """A secondary capture: a picture without any place in space."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = pixels(Dataset(), np.arange(64 * 64).reshape(64, 64))
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = uid("screen", number)
    dataset.SeriesInstanceUID = uid("series", number)
    dataset.StudyInstanceUID = uid("study")
    dataset.PatientID = "phantom"
    dataset.Modality = "CT"
    dataset.SeriesNumber = number
    dataset.SeriesDescription = "Screen save"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    save(dataset, folder / f"screen{number}")


def write_dose_report(folder: Path) -> None:
    """A structured report, which has no pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = Dataset()
    dataset.SOPClassUID = XRayRadiationDoseSRStorage
    dataset.SOPInstanceUID = uid("dose")
    dataset.SeriesInstanceUID = uid("series", "dose")
    dataset.Modality = "SR"
    dataset.SeriesNumber = 997
    dataset.SeriesDescription = "Dose report"
    save(dataset, folder / "dose.dcm")


def write_dicomdir(folder: Path) -> None:
    """The directory file of a CD."""
    dataset = Dataset()
    dataset.SOPClassUID = MediaStorageDirectoryStorage
    dataset.SOPInstanceUID = uid("directory")
    dataset.FileSetID = "CD"
    save(dataset, folder / "DICOMDIR")


def write_enhanced(
    path: Path,
    hu: np.ndarray,
    z_mm: Sequence[float],
    rescales: Sequence[tuple[int, int]] | None = None,
) -> None:
    """A multi-frame file: the whole series in one, frames from the feet up.

    `rescales` are slope and intercept of each frame, else all share those of a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    slope, intercept = np.moveaxis(np.array(rescales or [(1, INTERCEPT)]), 1, 0)
    stored = (hu - intercept[:, None, None]) // slope[:, None, None]
    dataset = pixels(Dataset(), stored.astype(np.int32))
    dataset.SOPClassUID = EnhancedCTImageStorage
    dataset.SOPInstanceUID = uid("enhanced")
    dataset.StudyInstanceUID = uid("study")
    dataset.SeriesInstanceUID = uid("series", "enhanced")
    dataset.Modality = "CT"
    dataset.Manufacturer = "Philips"
    dataset.PatientID = "phantom"
    dataset.PatientPosition = "HFS"
    dataset.SeriesNumber = 5
    dataset.InstanceNumber = 1
    dataset.SeriesDescription = "Head multi-frame"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.NumberOfFrames = len(hu)
    shared = shared_groups()
    groups = [frame_groups(index, z) for index, z in enumerate(z_mm)]
    if rescales is None:
        shared.PixelValueTransformationSequence = Items([to_hu(1, INTERCEPT)])
    else:
        for group, rescale in zip(groups, rescales, strict=True):
            group.PixelValueTransformationSequence = Items([to_hu(*rescale)])
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    dataset.PerFrameFunctionalGroupsSequence = Items(groups)
    save(dataset, path)


def to_hu(slope: int, intercept: int) -> Dataset:
    """How stored values become HU."""
    values = Dataset()
    values.RescaleIntercept, values.RescaleSlope = intercept, slope
    values.RescaleType = "HU"
    return values


def shared_groups() -> Dataset:
    """What all frames of a multi-frame file have in common."""
    measures, orientation, frame = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [SPACING_MM, SPACING_MM]
    measures.SliceThickness = DISTANCE_MM
    orientation.ImageOrientationPatient = list(AXIAL)
    frame.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared = Dataset()
    shared.PixelMeasuresSequence = Items([measures])
    shared.PlaneOrientationSequence = Items([orientation])
    shared.CTImageFrameTypeSequence = Items([frame])
    return shared


def frame_groups(index: int, z: float) -> Dataset:
    """Place and order of one frame."""
    position, content = Dataset(), Dataset()
    position.ImagePositionPatient = [-80.0, -60.0, float(z)]
    content.StackID = "1"
    content.InStackPositionNumber = index + 1
    content.DimensionIndexValues = [1, index + 1]
    group = Dataset()
    group.PlanePositionSequence = Items([position])
    group.FrameContentSequence = Items([content])
    return group


def compress(dataset: Dataset, values: np.ndarray) -> None:
    """Replace the pixels by lossless JPEG, what most archives store."""
    stream = lossless_jpeg((values.astype(np.int32) - INTERCEPT).astype(np.uint16))
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1


def lossless_jpeg(image: np.ndarray) -> bytes:
    """Encode 16 bits as JPEG process 14, selection value 1 (ITU-T T.81, annex H).

    Each pixel is told by its difference from the one on its left (the first of a row:
    from the one above). All 17 categories of differences get a code of five bits.
    """
    signed = image.astype(np.int64)
    left = np.roll(signed, 1, axis=1)
    left[1:, 0] = signed[:-1, 0]
    left[0, 0] = 1 << 15
    differences = (signed - left + 32768) % 65536 - 32768
    bits = "".join(code_of(int(one)) for one in differences.ravel())
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00")
    rows, columns = image.shape
    frame = bytes([16]) + rows.to_bytes(2) + columns.to_bytes(2) + bytes([1, 1, 17, 0])
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    return (
        b"\xff\xd8"
        + segment(0xC3, frame)
        + segment(0xC4, table)
        + segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
        + scan
        + b"\xff\xd9"
    )


def code_of(difference: int) -> str:
    """Category and further bits of a difference."""
    category = 16 if difference == -32768 else abs(difference).bit_length()
    code = f"{category:05b}"
    if category in (0, 16):
        return code
    further = difference if difference > 0 else difference + (1 << category) - 1
    return code + f"{further:0{category}b}"


def segment(marker: int, content: bytes) -> bytes:
    """A marker with its length and content."""
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content
