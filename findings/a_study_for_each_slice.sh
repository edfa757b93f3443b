#!/usr/bin/env bash
# One would guess: slices that SimpleITK writes as DICOM under one Series Instance UID are of
# one study, at least where KeepOriginalImageUIDOn is set, as its documentation shows for
# making a series of an array.
# What happens: unless a Study Instance UID is set, too, every file gets a new one. SimpleITK
# reads the series whole; pydicom's FileSet, which sorts by patient, study and series as the
# standard and archives do, finds as many studies as slices, each with a series of one image.
# Why it matters: that example is how NIfTI data sets become DICOM. Who sorts by study finds
# no volume in them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.3.5
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

import numpy as np
import SimpleITK
from pydicom.fileset import FileSet

print("SimpleITK", version("SimpleITK"), "pydicom", version("pydicom"))
SLICES = 6
volume = SimpleITK.GetImageFromArray(np.full((SLICES, 16, 16), 40, np.int16))
volume.SetSpacing((1.0, 1.0, 5.0))


def write(name, **more):
    """The volume as a series; `more` are further elements."""
    folder = Path(name)
    folder.mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(SLICES):
        image = volume[:, :, z]
        place = volume.TransformIndexToPhysicalPoint((0, 0, z))
        elements = {
            "0008|0060": "CT",
            "0010|0020": "phantom",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1.1",
            "0020|0010": "1",
            "0020|0011": "2",
            "0020|0013": str(z + 1),
            "0020|0032": "\\".join(map(str, place)),
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in (elements | more).items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{z}.dcm"))
        writer.Execute(image)
    return folder


def read(folder):
    """How many slices SimpleITK reads, how many studies and series a file set has, and
    how many images each study."""
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    files = FileSet()
    for path in sorted(folder.glob("*.dcm")):
        files.add(path)
    studies = files.find_values("StudyInstanceUID")
    series = files.find_values("SeriesInstanceUID")
    images = [len(files.find(StudyInstanceUID=study)) for study in studies]
    return len(names), len(studies), len(set(series)), images


STUDY = {"0020|000d": "1.2.826.0.1.3680043.2.1125.1.2"}
for name, more in (("no study named", {}), ("a study named", STUDY)):
    slices, studies, series, images = read(write(name, **more))
    print(f"{name}: SimpleITK reads {slices} slices; a file set has {studies} studies,")
    print(f"  {series} series, {images} images in each study")
    assert (slices, series) == (SLICES, 1)
    assert images == ([SLICES] if more else [1] * SLICES)
PYTHON
