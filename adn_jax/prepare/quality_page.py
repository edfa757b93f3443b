"""One page over all cases of a prepared data set: what deserves a look comes first."""

from collections.abc import Sequence
from pathlib import Path

from adn_jax.data.cases import CaseFacts
from adn_jax.data.manifest import Manifest
from adn_jax.io.files import write_text
from adn_jax.prepare.figures import FIGURES, Figure
from adn_jax.report.pages import page_environment


def write_quality_page(
    path: Path, manifest: Manifest, cases: Sequence[CaseFacts]
) -> None:
    """Write `quality.html`: failed and left-out cases, then a row a prepared case.

    The page needs no network and no server. The pictures stay in `quality/` beside it,
    and a browser reads one only when its row is near, so thousands of cases are light.
    """
    environment = page_environment("adn_jax.prepare")
    environment.filters["figure"] = format_figure
    columns = {
        name: figure
        for name, figure in FIGURES.items()
        if any(name in case.quality for case in cases)
    }
    text = environment.get_template("quality.html").render(
        manifest=manifest,
        cases=sorted(cases, key=lambda case: (-len(case.flags), case.name)),
        columns=columns,
        flagged=sum(bool(case.flags) for case in cases),
    )
    write_text(path, text)


def format_figure(value: float | int | None, figure: Figure) -> str:
    """A value in the style of its column; a dash where there is none."""
    return "–" if value is None else f"{value:{figure.style}}".replace("-", "−")
