"""`adn evaluate RUN`: score a run, write its report, print the headline."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adn_jax.cli.arguments import LocalFolder, Where, WhereRun, given, parse
from adn_jax.config import TtaSettings
from adn_jax.distributed.preemption import interrupt_on_sigterm
from adn_jax.errors import UserError, counted
from adn_jax.evaluation.case import EmptyRule
from adn_jax.evaluation.evaluate import (
    Evaluation,
    ThresholdRule,
    evaluate_predictions,
    evaluate_run,
)
from adn_jax.evaluation.report import format_number
from adn_jax.evaluation.summary import label_lost, no_midline, over_fewer
from adn_jax.inference.chain import spread_scans
from adn_jax.runtime.platform import keep_compiled


@dataclass(frozen=True)
class Evaluate:
    """Score a run, or what another tool predicted, on held-out cases.

    Writes RUN/evaluation/SPLIT/, or PREDICTIONS/evaluation/SPLIT/.
    """

    run: Annotated[
        WhereRun | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")
    ] = None
    """Folder of a finished run, or bundled: the model that comes with the package."""
    model: WhereRun | None = None
    """The same as RUN."""
    out: Where | None = None
    """Folder for the results in place of RUN/evaluation or PREDICTIONS/evaluation."""
    predictions: LocalFolder | None = None
    """In place of RUN, masks or probabilities of another tool, <case>.nii.gz each, on
    the scans' own grids or on the prepared one; needs --data."""
    split: str = "test"
    """Split of the data set: train, validation or test."""
    data: Where | None = None
    """Prepared data set; default: the one that the run was trained on."""
    empty: EmptyRule = "penalise"
    """Rule for empty masks: penalise (HD95 is the image's diagonal) or leave_out."""
    samples: int = 0
    """Passes with dropout that tell how sure the predictions are; 0: none."""
    ensemble: tuple[WhereRun, ...] = ()
    """Further runs: the mean of all predictions is scored, in SPLIT-ensemble/."""
    threshold: ThresholdRule = "recipe"
    """From which probability a voxel is infarct: recipe, or auto: chosen on the
    validation split of the run's data, one for small infarcts apart."""
    least_lesion_ml: float | None = None
    """Predicted lesions of less are left out as chance; default: the recipe's."""
    least_ppv: float | None = None
    """Predicted lesions that are true in a smaller fraction of cases, as measured for
    the model, are left out; default: the model's own bound; 0 shows all."""
    tta: TtaSettings = field(default_factory=TtaSettings)
    """Test-time augmentation; fields that are not given are the recipe's."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb."""
    command = parse(Evaluate, "evaluate", arguments)
    tta = given(command.tta, "tta", arguments)
    if command.predictions is not None:
        with interrupt_on_sigterm():
            evaluation = _evaluate_peer(command, command.predictions, tta)
        print_evaluation(evaluation)
        return
    if command.run is not None and command.model is not None:
        raise UserError(
            f"{command.run} and --model {command.model} are two runs; give one of them."
        )
    run = command.model if command.run is None else command.run
    if run is None:
        raise UserError(
            "nothing to score was given; name the folder of a run, or the predictions "
            "of another tool with --predictions DIR --data DIR."
        )
    keep_compiled()
    spread_scans(run)
    with interrupt_on_sigterm():
        evaluation = evaluate_run(
            run,
            command.data,
            command.split,
            command.empty,
            command.samples,
            command.ensemble,
            tta,
            command.threshold,
            command.out,
            command.least_lesion_ml,
            command.least_ppv,
        )
    print_evaluation(evaluation)


def _evaluate_peer(
    command: Evaluate, predictions: Path, tta: Mapping[str, Any]
) -> Evaluation:
    """Score the predictions of another tool; options of a run are refused."""
    asked = {
        "RUN": command.run,
        "--model": command.model,
        "--samples": command.samples,
        "--ensemble": command.ensemble,
        "--threshold auto": command.threshold != "recipe",
        "--least-lesion-ml": command.least_lesion_ml is not None,
        "--least-ppv": command.least_ppv is not None,
        "--tta": tta,
    }
    for name, value in asked.items():
        if value:
            raise UserError(
                f"{name} belongs to a run and --predictions to another tool, whose "
                "predictions are scored as they are; give one of the two."
            )
    if command.data is None:
        raise UserError(
            "--predictions needs the prepared data set to score them on; give it with "
            "--data DIR."
        )
    return evaluate_predictions(
        predictions, command.data, command.split, command.empty, out=command.out
    )


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the headline table and where the report is."""
    console = Console()
    console.print(headline(evaluation.summary))
    threshold = evaluation.summary["threshold"]
    if isinstance(threshold, Mapping):
        line = f"threshold {threshold['in_words']}"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"report: {evaluation.folder / 'report.html'}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def headline(summary: Mapping[str, Any]) -> Table:
    """Dice, HD95, alignment, disentanglement, calibration, uncertainty."""
    table = Table(
        title=escape(
            f"{summary['recipe']}, {summary['split']}: "
            f"{counted(summary['cases'], 'case')}, "
            f"{summary['grid']} grid"
        ),
        title_justify="left",
    )
    for column in ("score", "mean", "95 % interval", "median", "beside it"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for row in headline_rows(summary):
        table.add_row(*row)
    return table


def headline_rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The rows of `headline`; none for what was not measured."""
    on_prepared = summary["grids"]["prepared"]
    beside = [f"prepared grid {format_number(on_prepared['dice']['mean'], 3)}"]
    beside += filter(None, [label_lost(on_prepared["empty"])])
    pooled = format_number(summary["hd95_pooled_mm"]["mean"], 1)
    cases = summary["cases"]
    yield *mean_row("Dice", summary["dice"], cases), "; ".join(beside)
    yield *mean_row("HD95 mm", summary["hd95_mm"], cases, 1), f"pooled {pooled}"
    if summary["empty"]["decided"]:
        yield empty_row(summary["empty"], cases)
    yield *mean_row("lesion F1", summary["lesion_f1"], cases), ""
    if error := summary["alignment_error_deg"]:
        first = "network_alone" if "network_alone" in error else "first_guess"
        beside = f"{first.replace('_', ' ')} {format_number(error[first]['median'])}"
        yield (
            f"mid-line error °{over_fewer(error, cases)}",
            format_number(error["mean"]),
            f"p95 {format_number(error['p95'])}",
            format_number(error["median"]),
            "; ".join(filter(None, (beside, no_midline(summary)))),
        )
    if split_up := summary["disentanglement"]:
        of_a = format_number(split_up["auroc_asymmetry"]["mean"], 3)
        yield *mean_row("AUROC of P", split_up["auroc"], cases), f"of A {of_a}"
        of_a = format_number(split_up["mass_share_asymmetry"]["mean"], 3)
        share = mean_row("share of min(P, A)", split_up["mass_share"], cases)
        yield *share, f"of A {of_a}"
    if calibration := summary["calibration"]:
        yield (
            "calibration error",
            format_number(calibration["ece"], 4),
            f"near lesions {format_number(calibration['ece_near'], 4)}",
            "",
            f"Brier {format_number(calibration['brier'], 4)}",
        )
    if uncertainty := summary["uncertainty"]:
        yield (
            *mean_row("AUROC of uncertainty", uncertainty["error_auroc"], cases),
            f"false lesions {format_number(uncertainty['false_lesion_auroc'], 3)} "
            f"({uncertainty['false_lesions']} of {uncertainty['lesions']})",
        )


def empty_row(empty: Mapping[str, Any], cases: int) -> tuple[str, ...]:
    """How many of these scores are not measured but given by the rule for empty masks,
    and what the others are."""
    kinds = ("label", "prediction", "both")
    counts = ", ".join(f"{kind} {empty[kind]}" for kind in kinds if empty[kind])
    dice, hd95 = (empty[f"{name}_of_others"]["mean"] for name in ("dice", "hd95_mm"))
    return (
        "  by rule",
        f"{empty['decided']} of {cases}",
        f"empty: {counts}",
        "",
        f"the others {format_number(dice, 3)}, {format_number(hd95, 1)} mm",
    )


def mean_row(
    name: str, statistics: Mapping[str, Any], cases: int, digits: int = 3
) -> tuple[str, str, str, str]:
    """Name (and over how many of the cases), mean, interval and median as text."""
    interval = statistics["ci95"]
    between = " to ".join(format_number(value, digits) for value in interval or ())
    return (
        f"{name}{over_fewer(statistics, cases)}",
        format_number(statistics["mean"], digits),
        between or "–",
        format_number(statistics["median"], digits),
    )
