#!/usr/bin/env bash
# One would guess: a DICOM segmentation of slices that lie unevenly (a head CT often has
# them) comes from ITK with an error or a warning, or at least with the size of a pixel
# and its first slice in place, as it does with even slices.
# What happens: SimpleITK reads it without a word as voxels of 1 x 1 x 1 mm, and from the
# last slice's position upwards, though its pixels are 2.5 mm and its slices go down.
# Why it matters: volumes in mL are wrong by the size of a voxel, and laid over the scan the
# mask is another size and elsewhere; nothing tells.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    highdicom==0.28.2 pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.3.5
cp "$here/ct_series.py" "$folder"
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk
from ct_series import SIZE, write_slice
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

print("SimpleITK", sitk.Version.VersionString(), "highdicom", hd.__version__)


def read_segmentation(name, heights_mm):
    """The segmentation of a block, on slices at these heights, as SimpleITK reads it."""
    Path(name).mkdir()
    for index, height in enumerate(heights_mm):
        write_slice(name, 30, index, ImagePositionPatient=[-80, -80, height])
    source = [pydicom.dcmread(path) for path in sorted(Path(name).iterdir())]
    for each in source:  # highdicom copies them
        each.PatientBirthDate = each.PatientSex = each.AccessionNumber = ""
        each.ReferringPhysicianName = each.StudyID = ""
    algorithm = hd.AlgorithmIdentificationSequence(
        "made up", codes.DCM.ArtificialIntelligence, "1"
    )
    infarct = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="infarct",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=Code("55641003", "SCT", "Infarct"),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    mask = np.zeros((len(heights_mm), SIZE, SIZE), np.uint8)
    mask[1:4, 20:30, 20:30] = 1
    segmentation = hd.seg.Segmentation(
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
    )
    segmentation.save_as(f"{name}.dcm")
    image = sitk.ReadImage(f"{name}.dcm")
    print(
        f"slices at {heights_mm} mm: spacing {image.GetSpacing()}, origin "
        f"{image.GetOrigin()}, slices along {image.GetDirection()[2::3]}"
    )
    return image


even = read_segmentation("even", [0, 5, 10, 15, 20])
uneven = read_segmentation("uneven", [0, 5, 10, 17, 24])
assert even.GetSpacing() == (2.5, 2.5, 5.0)
assert uneven.GetSpacing() == (1.0, 1.0, 1.0), "it has another spacing now"
assert uneven.GetOrigin()[2] == 24 and uneven.GetDirection()[8] == 1
PYTHON
