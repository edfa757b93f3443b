#!/usr/bin/env bash
# One would guess: where a series holds each slice twice, by a soft and by a bone kernel, as
# some archives send it, dcm2niix writes a file for each kernel, or says that it mixes them:
# the kernel is one of the things that its JSON sidecar names.
# What happens: it writes one file of two time points and reports no kernel but the one of
# the first slice.
# Why it matters: a reader of the first time point gets the image of either kernel, by the
# order of instance numbers; one that takes the mean of time points gets a mixture.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    dcm2niix==1.0.20260724 pydicom==3.0.2 nibabel==5.4.2 numpy==2.3.5
cd "$folder"
mkdir series nifti
venv/bin/python - <<'PYTHON'
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STUDY, SERIES, FRAME = (generate_uid(entropy_srcs=[name]) for name in "abc")
SLICES, SIZE = 12, 64


def write_slice(kernel, hu, index, instance):
    """One axial slice of a series, all of one value in HU."""
    one = Dataset()
    one.SOPClassUID = CTImageStorage
    one.SOPInstanceUID = generate_uid(entropy_srcs=[kernel, str(index)])
    one.StudyInstanceUID, one.SeriesInstanceUID = STUDY, SERIES
    one.FrameOfReferenceUID = FRAME
    one.PatientName = one.PatientID = "phantom"
    one.StudyDate, one.StudyTime, one.Modality = "20240102", "101112", "CT"
    one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    one.Manufacturer, one.SeriesDescription = "SIEMENS", "Head"
    one.SeriesNumber, one.AcquisitionNumber, one.InstanceNumber = 2, 1, instance
    one.ConvolutionKernel, one.PatientPosition = kernel, "HFS"
    one.SliceThickness, one.PixelSpacing = 5, [2.5, 2.5]
    one.ImagePositionPatient = [-80, -80, 5 * index]
    one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    one.RescaleIntercept, one.RescaleSlope = -1024, 1
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.Rows = one.Columns = SIZE
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
    one.PixelRepresentation = 0
    one.PixelData = np.full((SIZE, SIZE), hu + 1024, "<u2").tobytes()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.save_as(f"series/{instance:03d}.dcm", enforce_file_format=True)


for index in range(SLICES):
    write_slice("H30s", 40, index, 1 + index)
    write_slice("H60s", 900, index, 101 + index)
PYTHON
venv/bin/dcm2niix -z n -f %s -o nifti series | tee said.txt
venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

import nibabel as nib
import numpy as np

files = sorted(Path("nifti").glob("*.nii"))
print(*(path.name for path in files))
(path,) = files
image = nib.load(path)
means = [float(np.mean(image.dataobj[..., time])) for time in range(image.shape[-1])]
kernel = json.loads(path.with_suffix(".json").read_text()).get("ConvolutionKernel")
print(f"shape {image.shape}, mean of each time point {means} HU, kernel named: {kernel}")
assert image.shape == (64, 64, 12, 2)
assert sorted(means) == [40, 900]
assert kernel in {"H30s", "H60s"}
assert "kernel" not in Path("said.txt").read_text().lower()
PYTHON
