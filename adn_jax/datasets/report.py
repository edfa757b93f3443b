"""The report of a preparation: what was used, put right, left out, failed, and why."""

from collections.abc import Iterable, Mapping, Sequence

from adn_jax.data.cases import CaseFacts, PreparedCase
from adn_jax.data.manifest import Manifest
from adn_jax.datasets.aisd.facts import known_table, oddity_table
from adn_jax.datasets.raw import RawDataset
from adn_jax.io.files import write_text
from adn_jax.io.paths import Place
from adn_jax.report.tables import bullets, table


def write_report(
    path: Place,
    dataset: RawDataset,
    manifest: Manifest,
    cases: Iterable[CaseFacts | PreparedCase],
) -> None:
    """Write the report of a prepared data set as Markdown, for any layout.

    Args:
        path: the file, usually `OUT/report.md`.
        dataset: what was found in the raw data set.
        manifest: what came of it.
        cases: the prepared cases, or what their `case.json` says of them;
            `source["fixed"]` holds a sentence on each thing that was put right.
    """
    write_text(path, report(dataset, manifest, list(cases)))


def report(
    dataset: RawDataset, manifest: Manifest, cases: Sequence[CaseFacts | PreparedCase]
) -> str:
    """The text of the report."""
    is_aisd = dataset.layout == "aisd"
    rule = dataset.label_rule(manifest.settings.infarct_labels)
    sections = {
        "The raw data set": bullets([*dataset.remarks, *([rule] if rule else ())]),
        "Beside known counts of the whole download": (
            known_table(cases) if is_aisd else ""
        ),
        "Put right": per_case(
            {case.name: case.source.get("fixed", ()) for case in cases}
        ),
        "Left out on purpose": per_case(_one_each(manifest.left_out)),
        "Failed": per_case(_one_each(manifest.failed)),
        "Used, but worth a look": per_case({case.name: case.flags for case in cases}),
        "What is odd about the download": oddity_table() if is_aisd else "",
    }
    parts = [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    head = "# What was prepared, and what was not"
    return "\n\n".join([head, overview(dataset, manifest, cases), *parts]) + "\n"


def overview(
    dataset: RawDataset, manifest: Manifest, cases: Sequence[CaseFacts | PreparedCase]
) -> str:
    """Where the data lies, by which settings it was prepared, and how many cases."""
    settings = manifest.settings
    grid = " x ".join(map(str, settings.shape))
    spacing = " x ".join(f"{one:g}" for one in settings.spacing_mm)
    labels = ", ".join(map(str, settings.infarct_labels))
    counts = [
        ("found", len(dataset.cases) + len(manifest.left_out)),
        ("left out on purpose", len(manifest.left_out)),
        ("failed", len(manifest.failed)),
        ("prepared", len(manifest.cases)),
        (
            "with something put right",
            sum(bool(case.source.get("fixed")) for case in cases),
        ),
        ("with a flag", sum(bool(case.flags) for case in cases)),
        *((f"for {split}", len(names)) for split, names in manifest.splits.items()),
    ]
    return (
        f"`{dataset.folder}` (layout {dataset.layout}) was prepared into "
        f"`{manifest.folder}`: {grid} voxels of {spacing} mm (z y x); label values "
        f"{labels} are infarct.\n\n" + table(("cases", "number"), counts)
    )


def _one_each(reasons: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Reasons as lists of one sentence."""
    return {name: (reason,) for name, reason in reasons.items()}


def per_case(sentences: Mapping[str, Sequence[str]]) -> str:
    """A table with a row a sentence; empty where there are none."""
    named = {name: found for name, found in sorted(sentences.items()) if found}
    if not named:
        return ""
    rows = [(name, sentence) for name, found in named.items() for sentence in found]
    return f"{len(named)} cases.\n\n" + table(("case", "what"), rows)
