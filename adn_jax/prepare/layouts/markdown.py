"""Lists and tables in Markdown."""

from collections.abc import Iterable, Sequence


def bullets(sentences: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; what would break its cells is escaped. Empty where there are no rows."""
    lines = [heading, ["---"] * len(heading), *rows]
    if len(lines) == 2:
        return ""
    return "\n".join(
        "| " + " | ".join(cell(value) for value in line) + " |" for line in lines
    )


def cell(value: object) -> str:
    """A value as the text of one cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
