"""Slices of one CT series, for findings on what reads it."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SIZE = 64


def write_slice(
    folder: str, hu: int, index: int, instance: int = 0, **tags: Any
) -> None:
    """Write one axial slice, all of one value in HU, 5 mm above the one before.

    `tags` are DICOM keywords that differ from those of every slice.
    """
    instance = instance or index + 1
    one = Dataset()
    one.SOPClassUID = CTImageStorage
    one.SOPInstanceUID = generate_uid(entropy_srcs=[str(instance)])
    one.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    one.SeriesInstanceUID = generate_uid(entropy_srcs=["series"])
    one.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    one.PatientName = one.PatientID = "phantom"
    one.StudyDate, one.StudyTime, one.Modality = "20240102", "101112", "CT"
    one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    one.Manufacturer, one.SeriesDescription = "SIEMENS", "Head"
    one.SeriesNumber, one.AcquisitionNumber, one.InstanceNumber = 2, 1, instance
    one.ConvolutionKernel, one.PatientPosition = "H30s", "HFS"
    one.SliceThickness, one.PixelSpacing = 5, [2.5, 2.5]
    one.ImagePositionPatient = [-80, -80, 5 * index]
    one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    one.RescaleIntercept, one.RescaleSlope = -1024, 1
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.Rows = one.Columns = SIZE
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
    one.PixelRepresentation = 0
    one.PixelData = np.full((SIZE, SIZE), hu + 1024, "<u2").tobytes()
    for keyword, value in tags.items():
        setattr(one, keyword, value)
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.save_as(Path(folder) / f"{instance:03d}.dcm", enforce_file_format=True)


def write_segmentation(folder: str, depth: int) -> None:
    """Write `folder`.dcm: a DICOM segmentation of the series of `depth` slices in
    `folder`, a block of 10 x 10 pixels on its second to fourth slice."""
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    source = [dcmread(path) for path in sorted(Path(folder).iterdir())]
    for each in source:  # highdicom copies them
        each.PatientBirthDate = each.PatientSex = each.AccessionNumber = ""
        each.ReferringPhysicianName = each.StudyID = ""
    infarct = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="infarct",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=Code("55641003", "SCT", "Infarct"),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            "made up", codes.DCM.ArtificialIntelligence, "1"
        ),
    )
    mask = np.zeros((depth, SIZE, SIZE), np.uint8)
    mask[1:4, 20:30, 20:30] = 1
    hd.seg.Segmentation(
        source_images=source,
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[infarct],
        series_instance_uid=generate_uid(),
        series_number=3,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="made up",
        manufacturer_model_name="made up",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    ).save_as(f"{folder}.dcm")
