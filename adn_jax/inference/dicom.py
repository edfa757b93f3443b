"""Results as DICOM objects of the series that they were found in.

A segmentation of the lesion (binary) and one of its probability (fractional), frame for
frame on the slices as they were taken, and a structured report with the volume
(TID 1500), together with what makes it doubtful. Every one refers to the images of the
series and lies in its study.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from jaxtyping import Float, Float32, Num, UInt8
from pydicom.dataset import Dataset
from pydicom.sr.codedict import Code, codes
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from pydicom.valuerep import DA, TM, VR

from adn_jax.errors import UserError, few_of
from adn_jax.inference.maps import number_and_largest
from adn_jax.scans.dicom.headers import Frame
from adn_jax.scans.read import RawScan

if TYPE_CHECKING:  # an extra: only who asks for DICOM needs it
    import highdicom

CATEGORY = Code("49755003", "SCT", "Morphologically abnormal structure")

INFARCT = Code("55641003", "SCT", "Infarct")

CT_OF_HEAD = Code("24725-4", "LN", "CT Head")

MILLILITRE = Code("mL", "UCUM", "milliliter")

PURPOSE = "For research; not for diagnosis"

MAKER = "adn-jax"

NAMING = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
"""What nothing can refer to an image without."""

MAX_FRACTIONAL_VALUE = 255
"""Steps of a fractional segmentation from probability 0 to 1."""

DICOM_FILES = {
    "lesion": "lesion_seg.dcm",
    "probability": "probability_seg.dcm",
    "report": "report_sr.dcm",
}

SERIES_NUMBERS = {"lesion": 9001, "probability": 9002, "report": 9003}

MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
    "ReferringPhysicianName",
)
"""Elements that an object has to have, if without a value; de-identified files often
lack them."""


SEXES = {"M", "F", "O", ""}
"""What an object may say of a patient's sex."""

WHEN = {
    "PatientBirthDate": DA,
    "StudyDate": DA,
    "StudyTime": TM,
}
"""What reads these elements; it raises ValueError for what is none."""

UTF_8, LATIN_1 = "ISO_IR 192", "ISO_IR 100"
"""Character sets: of every object that is written, and of sources that name none."""

LONGEST_NAME = 64
"""Letters of a model's or a device's name (value representation LO)."""


@dataclass(frozen=True)
class Found:
    """What was found on the slices of a series as they were taken."""

    lesion: UInt8[np.ndarray, "x y z"]
    """1 infarct, 0 not."""
    probability: Float32[np.ndarray, "x y z"]
    recipe: str
    run: str
    threshold: float
    """Probability from which a voxel is infarct."""
    left_out_ml: tuple[float, ...] = ()
    """Volumes of the predicted lesions that are not among these."""
    flags: tuple[str, ...] = ()
    """What deserves a look in the scan, a sentence each."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader has to know of the volume, in the words of `scan.json`."""
        return (
            *self.flags,
            "lesions left out as too small or doubtful to count: "
            + number_and_largest(self.left_out_ml),
            f"threshold: {self.threshold}",
        )


def check_highdicom() -> None:
    """Raise `UserError` where highdicom is not installed."""
    if find_spec("highdicom") is None:
        raise UserError(
            "--dicom needs highdicom; install it with: pip install 'adn-jax[dicom]'."
        )


def check_series(scan: RawScan, path: Path) -> None:
    """Raise `UserError` where a scan has no series of files to refer to."""
    if not scan.frames:
        raise UserError(
            f"{path} is no DICOM series, so that a DICOM result has nothing to refer "
            "to; give the folder of its slices, or leave out --dicom."
        )
    if not all(frame.path.is_file() for frame in scan.frames):
        raise UserError(
            f"{path} is an archive, and a DICOM result refers to files; unpack it and "
            "give the folder."
        )


def write_dicom(folder: Path, scan: RawScan, found: Found) -> dict[str, Any]:
    """Write both segmentations and the report; returns what `scan.json` says of them.

    The sources are read again, never written.

    Raises:
        UserError: the images have no names to refer to, or lie in several multi-frame
            files.
    """
    import highdicom

    sources = read_sources(scan.frames, scan.image.spacing_mm[2])
    volume_ml = taken_volume_ml(found.lesion, scan)
    tracking = highdicom.UID(), f"infarct by {MAKER}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom tells of odd values of the source
        lesion, probability = (
            _segmentation(name, found, scan.frames, sources, tracking)
            for name in ("lesion", "probability")
        )
        report = _report(lesion, sources, volume_ml, tracking, found)
    made = {"lesion": lesion, "probability": probability, "report": report}
    folder.mkdir()
    for name, dataset in made.items():
        dataset.save_as(folder / DICOM_FILES[name])
    return {
        "files": {name: f"{folder.name}/{file}" for name, file in DICOM_FILES.items()},
        "lesion_volume_ml": volume_ml,
        "counted": "each slice as thick as half the way to both of its neighbours",
        "evenly_spaced": scan.taken is None or scan.taken.is_even,
        "tilted": scan.taken is not None and not scan.taken.is_upright,
    }


def read_sources(frames: Sequence[Frame], distance_mm: float) -> list[Dataset]:
    """The headers of the files of a series, what may be empty filled in, and emptied
    where it is none of the values that an object may have.

    Slices that tell no thickness count as thick as they are apart: results need one.
    Texts are in UTF-8, whatever set of characters the files declare: highdicom refuses
    some sets that are common, and the names of runs and recipes know no bounds.

    Raises `UserError` where nothing can refer to them.
    """
    paths = list(dict.fromkeys(frame.path for frame in frames))
    sources: list[Dataset] = [
        pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths
    ]
    needed = (*NAMING, "SOPClassUID", "FrameOfReferenceUID")
    lacking = [name for name in needed if not all(one.get(name) for one in sources)]
    if lacking:
        raise UserError(
            f"images of {paths[0].parent} have no {few_of(lacking)}, so that no DICOM "
            "result can refer to them; leave out --dicom."
        )
    if len({one.SOPInstanceUID for one in sources}) < len(sources):
        raise UserError(
            f"images of {paths[0].parent} share one SOPInstanceUID, so that no DICOM "
            "result can refer to one of them; leave out --dicom."
        )
    if len({one.StudyInstanceUID for one in sources}) > 1:
        raise UserError(
            f"images of {paths[0].parent} are said to be of several studies, and a "
            "DICOM result is of one; leave out --dicom."
        )
    if len(sources) > 1 and any("NumberOfFrames" in one for one in sources):
        raise UserError(
            f"the series in {paths[0].parent} is made of several multi-frame files, to "
            "which one segmentation cannot refer; leave out --dicom."
        )
    for source in sources:
        _to_utf_8(source)
        for keyword in MAY_BE_EMPTY:
            if keyword not in source or not _is_valid(source, keyword):
                setattr(source, keyword, "")
        if "NumberOfFrames" not in source and not source.get("SliceThickness"):
            source.SliceThickness = distance_mm
    return sources


def _to_utf_8(source: Dataset) -> None:
    """Decode the texts of a header, and declare UTF-8; elements that cannot be read are
    left out."""
    if "SpecificCharacterSet" not in source:
        source.SpecificCharacterSet = LATIN_1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom tells of every odd value
        _leave_out_unreadable(source)
        source.decode()
    source.SpecificCharacterSet = UTF_8


def _leave_out_unreadable(dataset: Dataset) -> None:
    """Delete the elements that cannot be read, those of items of sequences too."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # whatever it holds, the others go on
            del dataset[tag]
            continue
        if element.VR == VR.SQ:
            for item in element.value:
                _leave_out_unreadable(item)


def _is_valid(source: Dataset, keyword: str) -> bool:
    """Whether an element has a value that an object may have; de-identified files have
    others."""
    value = str(source[keyword].value or "")
    if keyword == "PatientSex":
        return value in SEXES
    try:
        WHEN.get(keyword, str)(value)
    except (ValueError, OverflowError):
        return False
    return True


def in_frames(
    values: Num[np.ndarray, "x y z"], frames: Sequence[Frame], sources: list[Dataset]
) -> Num[np.ndarray, "frames rows columns"]:
    """Values of a stack of slices as the frames of its files, in their order.

    Frames of a multi-frame file that are not in the stack are 0.
    """
    slices = values.transpose(2, 1, 0)[:, ::-1]  # the stack's rows are turned round
    if "NumberOfFrames" not in sources[0]:
        return np.ascontiguousarray(slices)
    every = np.zeros((int(sources[0].NumberOfFrames), *slices.shape[1:]), values.dtype)
    every[[frame.index for frame in frames]] = slices
    return every


def taken_volume_ml(lesion: UInt8[np.ndarray, "x y z"], scan: RawScan) -> float:
    """Volume of a mask on slices as taken, each as thick as half the way to both of its
    neighbours; an outermost one reaches out as far as in."""
    pixel_mm2, thickness_mm = _pixel_and_slices_mm(scan)
    pixels = lesion.sum(axis=(0, 1), dtype=np.float64)
    return float(pixel_mm2 * (pixels @ thickness_mm) / 1000.0)


def _pixel_and_slices_mm(scan: RawScan) -> tuple[float, Float[np.ndarray, " z"]]:
    """Area of a pixel and thickness of each slice."""
    across, down, distance = scan.image.spacing_mm
    count = len(scan.frames)
    heights = distance * np.arange(count)
    if scan.taken is not None:
        heights = scan.taken.heights_mm
        across, down = np.linalg.norm(scan.taken.affine[:3, :2], axis=0).tolist()
    gaps = np.diff(heights)
    return across * down, (np.r_[gaps[:1], gaps] + np.r_[gaps, gaps[-1:]]) / 2


def _segmentation(
    name: str,
    found: Found,
    frames: Sequence[Frame],
    sources: list[Dataset],
    tracking: tuple[str, str],
) -> "highdicom.seg.Segmentation":
    """A segmentation with every frame of the series, empty ones included: readers that
    make a volume of it would close up the gaps."""
    import highdicom
    from highdicom.seg import Segmentation, SegmentDescription

    binary = name == "lesion"
    described = SegmentDescription(
        segment_number=1,
        segment_label="infarct" if binary else "probability of infarct",
        segmented_property_category=CATEGORY,
        segmented_property_type=INFARCT,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=found.recipe,
            family=codes.DCM.ArtificialIntelligence,
            version=version(MAKER),
            source=MAKER,
        ),
        tracking_uid=tracking[0],
        tracking_id=tracking[1],
        anatomic_regions=[codes.SCT.Brain],
    )
    return Segmentation(
        source_images=sources,
        pixel_array=in_frames(getattr(found, name), frames, sources),
        segmentation_type="BINARY" if binary else "FRACTIONAL",
        max_fractional_value=MAX_FRACTIONAL_VALUE,
        segment_descriptions=[described],
        content_label=name.upper(),
        content_description=PURPOSE,
        omit_empty_frames=False,
        transfer_syntax_uid=ExplicitVRLittleEndian if binary else RLELossless,
        series_description=f"{MAKER} {described.SegmentLabel}, research only",
        **_maker(name, found),
    )


def _maker(name: str, found: Found) -> dict[str, Any]:
    """What every object says of itself and of who made it."""
    import highdicom

    return {
        "series_instance_uid": highdicom.UID(),
        "series_number": SERIES_NUMBERS[name],
        "sop_instance_uid": highdicom.UID(),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": _as_name(found.recipe),
        "software_versions": version(MAKER),
        "device_serial_number": _as_name(found.run),
    }


def _as_name(text: str) -> str:
    """The end of a name, where names differ, without the sign between values."""
    return text.replace("\\", "/")[-LONGEST_NAME:]


def _report(
    segmentation: "highdicom.seg.Segmentation",
    sources: list[Dataset],
    volume_ml: float,
    tracking: tuple[str, str],
    found: Found,
) -> "highdicom.sr.ComprehensiveSR":
    """The report: volume of the infarct in the brain, referring to its segment, and
    beside it what makes it doubtful."""
    from highdicom import UID, sr

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=UID(), name=MAKER, manufacturer_name=MAKER, model_name=found.recipe
    )
    # not ReferencedSegment.from_segmentation: it looks for the segment's number in each
    # frame, and a segmentation with one segment says it once for all
    segment = sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=1,
        source_series=sr.SourceSeriesForSegmentation(sources[0].SeriesInstanceUID),
    )
    region = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(*tracking),
        referenced_segment=segment,
        finding_type=INFARCT,
        finding_category=CATEGORY,
        finding_sites=[sr.FindingSite(anatomic_location=codes.SCT.Brain)],
        measurements=[
            sr.Measurement(name=codes.SCT.Volume, value=volume_ml, unit=MILLILITRE)
        ],
    )
    # in the group, not at the root: there readers of TID 1500 pass over texts
    region[0].ContentSequence.extend(
        sr.TextContentItem(codes.DCM.Comment, remark, "CONTAINS")
        for remark in found.remarks
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            )
        ),
        procedure_reported=CT_OF_HEAD,
        imaging_measurements=[region],
    )
    made = _maker("report", found)
    return sr.ComprehensiveSR(
        evidence=[segmentation, *sources],
        content=content[0],
        is_complete=True,
        series_description=f"{MAKER} volume of infarct, research only",
        **made,
    )
