"""`adn predict RUN SCAN...`: segment unseen scans."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from adn_jax.cli.arguments import Where, given, parse
from adn_jax.config import TtaSettings
from adn_jax.errors import UserError
from adn_jax.inference.predict import predict_scans


@dataclass(frozen=True)
class Predict:
    """Segment scans; writes OUT/<scan>/ with volumes on the scan's own grid."""

    run: Annotated[Where, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a finished run."""
    scans: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SCAN [SCAN ...]")
    ]
    """NIfTI files or folders of DICOM slices."""
    out: Path
    """Folder for the results; a scan's older results are replaced."""
    series: str = ""
    """DICOM series to take, by number or part of its description, not by our choice."""
    hu_range: tuple[float, float] | None = None
    """HU to which the scans' values were clipped before, -17 80 for instance."""
    dicom: bool = False
    """Write DICOM segmentations (lesion, probability) and a structured report, too, on
    the slices as taken; SCAN has to be a series, and needs adn-jax[dicom]."""
    samples: int = 0
    """Passes with dropout that tell how sure the prediction is (uncertainty.nii.gz)."""
    viewer: bool = True
    """Write viewer.html, a page that shows the scan and all maps in any browser; it
    holds the scan itself."""
    tta: TtaSettings = field(default_factory=TtaSettings)
    """Test-time augmentation; fields that are not given are the recipe's."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb; exit code 2 if any scan failed, after doing the others."""
    command = parse(Predict, "predict", arguments)
    if not command.scans:
        raise UserError("no scan was given; name NIfTI files or DICOM folders.")
    failures = predict_scans(
        command.run,
        command.scans,
        command.out,
        command.samples,
        given(command.tta, "tta", arguments),
        command.series,
        command.hu_range,
        command.viewer,
        command.dicom,
    )
    for sentence in failures.values():
        print(f"adn: {sentence}", file=sys.stderr)
    done = len(command.scans) - len(failures)
    print(f"{done} {'scan is' if done == 1 else 'scans are'} in {command.out}")
    if failures:
        raise SystemExit(2)
