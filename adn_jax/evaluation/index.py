"""The first page of a run, RUN/index.html: how it trained, what it scores, and the way
to every other page."""

import csv
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from adn_jax.evaluation.report import data_uri, format_interval
from adn_jax.evaluation.summary import by_rule, over_fewer
from adn_jax.inference.figures import BAR, MEDIAN
from adn_jax.io.files import is_there, read_json, write_text
from adn_jax.io.paths import Place, is_remote
from adn_jax.report.pages import format_number, page_environment
from adn_jax.training.metric_log import METRICS, read_metrics
from adn_jax.training.runs import Run

EXTREMES = 3
"""Cases that are named at each end."""

CURVE_POINTS = 300
"""Points of a curve; each is the mean of the updates since the one before."""

VALIDATION_SCORES = {
    "score": "score of validation heads (Dice; without infarct 1 if left unmarked)",
    "dice": "Dice of validation heads",
    "unmatched": "asymmetry left in validation heads",
}
"""What tells how good the weights of a stage are, and what to call it."""


class ScoredCase(NamedTuple):
    """A line of an evaluation's per_case.csv; None is undefined."""

    name: str
    dice: float | None
    hd95_mm: float | None
    label_ml: float | None
    predicted_ml: float | None
    flags: str
    page: str
    """The page to read the scan, or its line in the report; from the run's folder."""


class Scored(NamedTuple):
    """An evaluation that lies in the run's folder."""

    name: str
    summary: Mapping[str, Any]
    cases: Sequence[ScoredCase]
    """The worst Dice first."""
    picture: str | None
    """The address of its picture from the best case to the worst."""


@dataclass(frozen=True)
class TrainingCurve:
    """A value of a stage against its updates."""

    stage: str
    name: str
    step: Float[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]
    best_step: int | None = None
    """Whose weights were kept; None of a value that has no say in it."""

    @property
    def in_words(self) -> str:
        """What a reader who cannot see it has to know."""
        ends = (format_number(float(self.value[i]), 3) for i in (0, -1))
        said = f"{self.name} from {' to '.join(ends)}"
        if self.best_step is None:
            return said
        return f"{said}; the weights of update {self.best_step} were kept (dashed)"


def write_index(run: Run) -> Place:
    """Write RUN/index.html from what lies in the run's folder; returns its place."""
    scored = find_scored(run.folder)
    page = page_environment("adn_jax.evaluation")
    page.filters |= {
        "interval": format_interval,
        "over_fewer": over_fewer,
        "by_rule": by_rule,
    }
    text = page.get_template("index.html").render(
        run=run,
        left=[stage for stage in run.stages if stage not in run.finished],
        scored=scored,
        extremes=EXTREMES,
        curves=[(curve, draw_curve(curve)) for curve in find_curves(run)],
        quality=quality_page(run),
        versions=read_json(run.folder / "config.json").get("versions", {}),
    )
    write_text(run.folder / "index.html", text)
    return run.folder / "index.html"


def find_scored(folder: Place) -> list[Scored]:
    """Every whole evaluation in a run's folder, `test` first."""
    parent = folder / "evaluation"
    places = sorted(parent.iterdir()) if parent.is_dir() else []
    whole = [place for place in places if is_there(place / "summary.json")]
    whole.sort(key=lambda place: place.name != "test")
    return [_read_scored(place) for place in whole]


def _read_scored(folder: Place) -> Scored:
    """Scores, cases and picture of one evaluation."""
    summary = read_json(folder / "summary.json")
    lines = csv.DictReader(StringIO((folder / "per_case.csv").read_text("utf-8")))
    cases = [_read_case(line, summary["grid"], folder) for line in lines]
    cases.sort(key=lambda case: -1.0 if case.dice is None else case.dice)
    picture = folder / "figures" / "segmentation.png"
    shown = data_uri(picture) if is_there(picture) else None
    return Scored(folder.name, summary, cases, shown)


def _read_case(line: Mapping[str, str], grid: str, folder: Place) -> ScoredCase:
    """A case of an evaluation's table, with the page that shows it."""
    name, scores = line["case"], ("dice", "hd95_mm", "label_ml", "predicted_ml")
    values = (line.get(f"{grid}_{score}") for score in scores)
    page = f"scans/{quote(name)}.html"
    if not is_there(folder / "scans" / f"{name}.html"):
        page = f"report.html#case-{quote(name)}"
    return ScoredCase(
        name,
        *(float(value) if value else None for value in values),
        flags=line.get("flags") or "",
        page=f"evaluation/{quote(folder.name)}/{page}",
    )


def find_curves(run: Run) -> list[TrainingCurve]:
    """Loss and validation score of every stage that was trained here, as far as it has
    come, from the run's log."""
    log = read_metrics(run.folder) if is_there(run.folder / METRICS) else []
    found = []
    for stage in run.stages:
        facts = run.finished.get(stage, {})
        if "taken_from" in facts:  # what the log has of it was set aside
            continue
        best = facts.get("best_step")
        wanted = [("train", "loss", "loss", None)]
        wanted += [
            ("validation", name, said, best) for name, said in VALIDATION_SCORES.items()
        ]
        for split, name, said, kept in wanted:
            points = _points(log, stage, split, name)
            if len(points):
                found.append(TrainingCurve(stage, said, *_thinned(points).T, kept))
    return found


def _points(
    log: Sequence[Mapping[str, Any]], stage: str, split: str, name: str
) -> Float[np.ndarray, "n 2"]:
    """Step and value of every line that has one."""
    lines = (line for line in log if (line["stage"], line["split"]) == (stage, split))
    pairs = [(line["step"], line[name]) for line in lines if name in line]
    return np.array(pairs, float).reshape(-1, 2)


def _thinned(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    """At most `CURVE_POINTS` of them: means of equally many, at the last one's step."""
    blocks = np.array_split(points, min(CURVE_POINTS, len(points)))
    return np.array([(block[-1, 0], block[:, 1].mean()) for block in blocks])


def draw_curve(curve: TrainingCurve) -> str:
    """A small picture of a curve, as an address that holds it."""
    figure = Figure(figsize=(4.6, 2.6), facecolor="white", layout="constrained")
    axes = figure.subplots()
    few = len(curve.step) <= 30
    axes.plot(
        *(curve.step, curve.value), "o-" if few else "-", color=BAR, markersize=3.5
    )
    if curve.best_step is not None:
        axes.axvline(curve.best_step, color=MEDIAN, linewidth=1.1, linestyle="--")
    if curve.value.min() > 0 and curve.value.max() > 20 * curve.value.min():
        axes.set_yscale("log")
    axes.set(xlabel="updates", xlim=(0, 1.03 * max(curve.step.max(), 1)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    picture = BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + b64encode(picture.getvalue()).decode()


def quality_page(run: Run) -> str | None:
    """Where the quality page of the run's data is, from the run's folder; None if it
    has none that a page can lead to."""
    if run.data is None or is_remote(run.folder) or is_remote(run.data):
        return None
    page = Path(run.data) / "quality.html"
    if not is_there(page):
        return None
    return quote(os.path.relpath(page, run.folder.resolve()))
