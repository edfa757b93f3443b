"""`adn export-model RUN OUT`: a run's chain to take along."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from adn_jax.cli.arguments import LocalFolder, Where, WhereRun, parse
from adn_jax.inference.export import ExportPlatform, Format, export_model


@dataclass(frozen=True)
class ExportModel:
    """Write a run's chain, from prepared scans to X, A, P, Q, Y and O, as one program.

    Its parameters are in it. OUT/model.json says what goes in and what comes out. Or
    write the run anew in few MB, for every verb that takes a run.
    """

    run: Annotated[WhereRun, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a finished run, or bundled."""
    out: Annotated[LocalFolder, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder for the model; a program of an earlier export is replaced."""
    format: Format = "stablehlo"
    """stablehlo: the whole chain, for jax.export.deserialize. onnx: through the PyTorch
    form of the chain, so in a checkout with adn-jax[onnx]; where the system searches
    the pose, it is a second input. weights: a run of few MB in half precision."""
    platforms: tuple[ExportPlatform, ...] | None = None
    """Platforms that StableHLO is lowered for; cpu, cuda and tpu where not given."""
    heads: Where | None = None
    """Of weights, a prepared data set whose training cases stand for what the run has
    learnt: predict flags scans that are unlike them. Their labels tell how often its
    lesions are true (of cases that it has learnt from, those for validation do). What
    the run itself has of both stays where this is not given."""
    step: int | None = None
    """Take the weights of this update of D and F, not those with the best score: of
    the latest two checkpoints, which a run keeps."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb."""
    command = parse(ExportModel, "export-model", arguments)
    path = export_model(
        command.run,
        command.out,
        command.format,
        command.platforms,
        command.heads,
        command.step,
    )
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
