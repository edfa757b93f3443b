"""`adn predict SCAN...`: segment unseen scans."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from adn_jax.cli.arguments import LocalFolder, WhereRun, given, parse
from adn_jax.config import TtaSettings
from adn_jax.distributed.preemption import interrupt_on_sigterm
from adn_jax.errors import UserError
from adn_jax.inference.chain import spread_scans
from adn_jax.inference.predict import predict_scans
from adn_jax.io.files import check_fetched, is_there
from adn_jax.io.paths import Place, is_remote
from adn_jax.runtime.platform import keep_compiled
from adn_jax.training.runs import BUNDLED


@dataclass(frozen=True)
class Predict:
    """Segment scans; writes OUT/<scan>/ with volumes on the scan's own grid."""

    scans: Annotated[
        tuple[WhereRun, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[RUN] SCAN [SCAN ...]"),
    ]
    """NIfTI files, folders of DICOM slices, multi-frame DICOM files, case folders, or
    archives of a folder (.zip, .tar, .tar.gz, .tgz); before them the run that
    predicts."""
    out: LocalFolder = Path("predictions")
    """Folder for the results; a scan's older results are replaced."""
    model: WhereRun | None = None
    """The run that predicts, if it is not named before the scans; default: bundled, the
    model that comes with the package, for research only."""
    series: str = ""
    """DICOM series to take, by number or part of its description, not by our choice."""
    hu_range: tuple[float, float] | None = None
    """HU to which the scans' values were clipped before, -17 80 for instance."""
    dicom: bool = False
    """Write DICOM segmentations (lesion, probability) and a structured report, too, on
    the slices as taken; SCAN has to be a series, and needs adn-jax[dicom]."""
    samples: int = 0
    """Passes with dropout that tell how sure the prediction is (uncertainty.nii.gz)."""
    least_lesion_ml: float | None = None
    """Predicted lesions of less are left out as chance; default: the recipe's."""
    least_ppv: float | None = None
    """Predicted lesions that are true in a smaller fraction of cases, as measured for
    the model, are left out; default: the model's own bound; 0 shows all."""
    viewer: bool = True
    """Write viewer.html, a page that shows the scan and all maps in any browser; it
    holds the scan itself."""
    tta: TtaSettings = field(default_factory=TtaSettings)
    """Test-time augmentation; fields that are not given are the recipe's."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb; exit code 2 if any scan failed, after doing the others."""
    command = parse(Predict, "predict", arguments)
    keep_compiled()
    model, scans = model_and_scans(command)
    spread_scans(model)
    with interrupt_on_sigterm():
        failures = predict_scans(
            model,
            scans,
            command.out,
            command.samples,
            given(command.tta, "tta", arguments),
            command.series,
            command.hu_range,
            command.viewer,
            command.dicom,
            command.least_lesion_ml,
            command.least_ppv,
        )
    for failure in failures.values():
        print(f"adn: {failure.sentence}", file=sys.stderr)
    done = len(scans) - sum(not failure.all_but_dicom for failure in failures.values())
    older = sum(failure.older_stay for failure in failures.values())
    beside = f", and results of an earlier run for {older}" if older else ""
    print(f"{done} {'scan is' if done == 1 else 'scans are'} in {command.out}{beside}")
    if failures:
        raise SystemExit(2)


def model_and_scans(command: Predict) -> tuple[Place, list[Path]]:
    """The run that predicts, and what it predicts.

    Raises `UserError` if two runs or no scans were named, or nothing is where a run
    could have been meant.
    """
    model, scans = command.model, list(command.scans)
    if scans and is_there(scans[0] / "config.json"):
        if model is not None:
            raise UserError(
                f"{scans[0]} is a run, and --model names one, too; leave one of them "
                "out."
            )
        model, *scans = scans
    if not scans:
        raise UserError("no scan was given; name NIfTI files or DICOM folders.")
    if remote := [scan for scan in scans if is_remote(scan)]:
        raise UserError(f"{remote[0]} is in an object store; copy the scan to a disk.")
    if model is None:
        check_fetched(scans[0])
        if not scans[0].exists():
            raise UserError(
                f"{scans[0]} is neither a run nor a scan, for nothing is there; check "
                "the path."
            )
        print(
            "No --model was named: the bundled model predicts, which has seen drawn "
            "heads alone. For research only."
        )
    return BUNDLED if model is None else model, [Path(scan) for scan in scans]
