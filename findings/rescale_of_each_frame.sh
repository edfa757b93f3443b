#!/usr/bin/env bash
# One would guess: a multi-frame CT whose frames have a rescale slope and intercept of their
# own (PS3.3, C.7.6.16.2.9: the functional group may be shared or of each frame) is read in
# HU, for the same slices as single files are.
# What happens: SimpleITK takes the first frame's rescale for all frames, dcm2niix the last
# one's; pydicom's apply_modality_lut, which looks at the top of the file alone, gives stored
# values back also where all frames share one rescale. None of them says a word. highdicom,
# which wrote the file, reads what went in.
# Why it matters: PACS make such files of classic series (legacy converted enhanced CT).
# Slices that are off by tens of HU, the width of the window in which strokes are read, pass
# every check of geometry.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    highdicom==0.28.2 pydicom==3.0.2 SimpleITK==2.5.7 dcm2niix==1.0.20260724 \
    nibabel==5.4.2 numpy==2.3.5
cd "$folder"
PATH="$folder/venv/bin:$PATH" venv/bin/python -W ignore - <<'PYTHON'
import subprocess
from importlib.metadata import version
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import SimpleITK
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

for package in ("highdicom", "pydicom", "SimpleITK", "dcm2niix"):
    print(package, version(package))

HU = [10, 20, 30, 40, 50, 60]
"""Of each slice, from the feet up."""


def classic(intercepts):
    """A series of single files, each slice of one CT number."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for number, (hu, intercept) in enumerate(zip(HU, intercepts)):
        file = Dataset()
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, generate_uid()
        file.StudyInstanceUID, file.SeriesInstanceUID = study, series
        file.FrameOfReferenceUID, file.PositionReferenceIndicator = frame, ""
        file.PatientName, file.PatientID = "Phantom", "1"
        file.PatientBirthDate, file.PatientSex, file.PatientPosition = "", "O", "HFS"
        for part in ("Study", "Series", "Acquisition", "Content"):
            setattr(file, f"{part}Date", "20260101")
            setattr(file, f"{part}Time", "120000")
        file.AccessionNumber = file.ReferringPhysicianName = ""
        file.StudyID, file.SeriesNumber, file.AcquisitionNumber = "1", 2, 1
        file.InstanceNumber, file.Modality = number + 1, "CT"
        file.Manufacturer = file.ManufacturerModelName = "Maker"
        file.DeviceSerialNumber = file.SoftwareVersions = "1"
        file.ImageType, file.BodyPartExamined = ["ORIGINAL", "PRIMARY", "AXIAL"], "HEAD"
        file.KVP, file.SliceThickness, file.PixelSpacing = 120, 5, [1, 1]
        file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        file.ImagePositionPatient = [-8, -8, 5 * number]
        file.Rows = file.Columns = 16
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 16
        file.HighBit, file.PixelRepresentation = 15, 1
        file.RescaleSlope, file.RescaleIntercept, file.RescaleType = 1, intercept, "HU"
        file.PixelData = np.full((16, 16), hu - intercept, np.int16).tobytes()
        yield file


def by_simpleitk(path):
    image = SimpleITK.ReadImage(str(path))
    assert image.GetSpacing() == (1, 1, 5)
    upwards = image.GetDirection()[8] > 0
    return SimpleITK.GetArrayFromImage(image)[:: 1 if upwards else -1, 0, 0]


def by_dcm2niix(path):
    out = path.parent / "nifti"
    out.mkdir()
    command = ["dcm2niix", "-s", "y", "-o", out, "-f", "scan", path]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "arn" not in run.stdout + run.stderr and "var" not in run.stdout
    image = nibabel.as_closest_canonical(nibabel.load(out / "scan.nii"))
    assert image.shape == (16, 16, 6)
    return np.asarray(image.dataobj)[0, 0]


def by_highdicom(path):
    volume = highdicom.imread(path).get_volume()
    assert volume.spacing == (5.0, 1.0, 1.0)
    return volume.array[:: int(np.sign(volume.affine[2, 0])), 0, 0]


def readings(name, intercepts):
    """What each reads of the multi-frame file of a series, from the feet up."""
    folder = Path(name)
    folder.mkdir()
    file = LegacyConvertedEnhancedCTImage(
        list(classic(intercepts)), generate_uid(), 3, generate_uid(), 1
    )
    path = folder / "scan.dcm"
    file.save_as(path)
    read = dcmread(path)
    upwards = np.argsort(
        [
            float(group.PlanePositionSequence[0].ImagePositionPatient[2])
            for group in read.PerFrameFunctionalGroupsSequence
        ]
    )
    found = {
        "highdicom": by_highdicom(path),
        "SimpleITK": by_simpleitk(path),
        "dcm2niix": by_dcm2niix(path),
        "pydicom": apply_modality_lut(read.pixel_array, read)[upwards, 0, 0],
    }
    print(f"\n{name}: intercepts {intercepts}, HU {HU}")
    found = {tool: [int(value) for value in values] for tool, values in found.items()}
    for tool, values in found.items():
        print(f"  {tool:10}", values)
    return found, upwards[::-1]


shared, _ = readings("shared", [-1024] * 6)
own, order = readings("own", [-1024, -1000] * 3)
stored = [hu - b for hu, b in zip(HU, [-1024, -1000] * 3)]
assert shared["highdicom"] == shared["SimpleITK"] == shared["dcm2niix"] == HU
assert shared["pydicom"] == [hu + 1024 for hu in HU]
assert own["highdicom"] == HU
assert own["pydicom"] == stored
assert list(order) == list(range(6))  # the first frame is the uppermost
assert own["SimpleITK"] == [value - 1000 for value in stored]
assert own["dcm2niix"] == [value - 1024 for value in stored]
print("\noff by", [a - b for a, b in zip(own["SimpleITK"], HU)], "and",
      [a - b for a, b in zip(own["dcm2niix"], HU)])
PYTHON
