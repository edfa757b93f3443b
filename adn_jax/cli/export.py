"""`adn export PREPARED OUT`: the same cases for nnU-Net and its peers."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from adn_jax.cli.arguments import LocalFolder, parse
from adn_jax.config import ReadSettings
from adn_jax.prepare.export import export_dataset


@dataclass(frozen=True)
class ExportCommand:
    """Write prepared cases in nnU-Net's raw layout: same cases, splits and labels.

    Cases that are done are kept. One that cannot be exported is named and left out.
    """

    prepared: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PREPARED")]
    """A prepared data set."""
    out: Annotated[LocalFolder, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """nnU-Net's folder of raw data sets (nnUNet_raw)."""
    raw: Path | None = None
    """The raw data set that was prepared; needed for the native grid."""
    grid: Literal["native", "prepared"] | None = None
    """Native: HU and labels on each scan's own grid, with the skull. Prepared: the
    prepared volumes in HU, without it. Where not given: native if RAW is."""
    dataset_id: int = 501
    """Number of the data set, 1 to 999."""
    name: str = "ADN"
    """Name of the data set."""
    workers: int | None = None
    """Processes side by side; one a processor where not given."""
    reading: tyro.conf.OmitArgPrefixes[ReadSettings] = field(
        default_factory=ReadSettings
    )
    """How the raw data was found and read when it was prepared."""


def main(arguments: Sequence[str]) -> None:
    """Export; exit code 2 if any case failed, after doing the others."""
    command = parse(ExportCommand, "export", arguments)
    export = export_dataset(
        command.prepared,
        command.out,
        command.raw,
        command.grid,
        command.dataset_id,
        command.name,
        command.reading,
        command.workers,
    )
    for name, reason in {**export.left_out, **export.failed}.items():
        print(f"adn: {name} is left out: {reason}", file=sys.stderr)
    counts = ", ".join(
        f"{len(names)} {split}" for split, names in export.splits.items()
    )
    print(f"exported cases ({counts}) are in {export.folder}")
    if export.splits["validation"]:
        print(
            "after nnUNetv2_plan_and_preprocess, copy splits_final.json from there to "
            f"nnUNet_preprocessed/{export.folder.name}: its fold 0 is this split"
        )
    if export.failed:
        raise SystemExit(2)
