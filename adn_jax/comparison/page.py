"""The comparison as one self-contained page: no file beside it, no network."""

from collections.abc import Mapping, Sequence

from adn_jax.evaluation.report import data_uri
from adn_jax.io.paths import Place
from adn_jax.report.pages import page_environment
from adn_jax.report.tables import Section

Picture = tuple[Place, str, str]
"""File, what it shows in a few words, and its caption."""


def render_page(
    title: str,
    facts: Mapping[str, str],
    sections: Sequence[Section],
    missing: Sequence[str],
    pictures: Sequence[Picture],
) -> str:
    """The page as HTML, pictures embedded."""
    environment = page_environment("adn_jax.comparison")
    return environment.get_template("table.html").render(
        title=title,
        facts=facts,
        sections=sections,
        missing=missing,
        pictures=[(data_uri(path), what, text) for path, what, text in pictures],
    )
