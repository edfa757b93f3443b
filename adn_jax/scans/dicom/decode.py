"""Decode compressed DICOM files: a program of its own, as damage may end it.

GDCM ends its process at some damaged streams. So `decode_apart` runs this file, which
imports nothing else of the package, as a child. The child writes an array for each
file: its images, or text, the reason why not. If its output ends early, the file after
the last one did it.
"""

import json
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import iter_pixels
from pydicom.uid import HTJ2K, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL

HIGH_THROUGHPUT = {HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL}
"""Read by what reads JPEG 2000, although pydicom does not say so of GDCM."""

SECONDS, SECONDS_A_FILE = 30, 1
"""Most processor time of a child."""

MOST_BYTES = 8 << 30
"""Most address space of a child."""


def decode_apart(
    wanted: Mapping[Path, Sequence[int]],
) -> Iterator[tuple[Path, np.ndarray | str]]:
    """Decode images of files by their numbers, in another process.

    Yields for each file its images (image, row, column), or the reason why not.
    """
    left = list(wanted)
    while left:
        limits = SECONDS + SECONDS_A_FILE * len(left), MOST_BYTES
        task = json.dumps([limits, [[str(path), [*wanted[path]]] for path in left]])
        with tempfile.TemporaryFile() as output, suppress(EOFError, ValueError):
            subprocess.run(
                [sys.executable, "-P", __file__],
                input=task.encode(),
                stdout=output,
                stderr=subprocess.DEVNULL,
                check=False,
            )
            output.seek(0)
            while left:
                found = np.load(output, allow_pickle=False)
                yield left.pop(0), found if found.ndim else found.item()
        if left:
            yield left.pop(0), "it broke its decoder"


def main() -> None:
    """Decode what standard input names, within its limits; see `decode_apart`."""
    (seconds, most_bytes), files = json.load(sys.stdin)
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, most_bytes),
    ):
        most = resource.getrlimit(kind)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, most))
    warnings.simplefilter("ignore")  # pydicom tells of every odd value
    for path, indices in files:
        try:
            dataset = pydicom.dcmread(path, force=True)
            name = dataset.file_meta.TransferSyntaxUID.name
            if dataset.file_meta.TransferSyntaxUID in HIGH_THROUGHPUT:
                dataset.file_meta.TransferSyntaxUID = JPEG2000
            found = np.stack([*iter_pixels(dataset, indices=indices, raw=True)])
        except (RuntimeError, NotImplementedError):  # every decoder failed, or none is
            found = np.array(f"its pixels ({name}) cannot be decoded")
        except Exception as error:  # whatever the damage happens to cause
            found = np.array(" ".join(str(error).split()) or type(error).__name__)
        np.lib.format.write_array(sys.stdout.buffer, found, allow_pickle=False)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
