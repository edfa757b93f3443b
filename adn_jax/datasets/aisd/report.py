"""What the report says of AISD: prepared cases beside known counts, and oddities."""

from collections.abc import Sequence
from math import inf

from adn_jax.data.cases import CaseFacts, PreparedCase
from adn_jax.datasets.aisd import facts
from adn_jax.datasets.aisd.facts import Count
from adn_jax.report.tables import bullets, table

TILTED_FROM_DEG = 0.1

AGREES = {True: "yes", False: "NO", None: "cannot tell"}


def known_counts(
    cases: Sequence[CaseFacts | PreparedCase],
) -> list[tuple[Count, int, bool | None]]:
    """What others counted, what was found in prepared cases, and whether both agree;
    None: it cannot be told, for cases that are not prepared may make the difference."""
    read = [case.source for case in cases if case.source.get("images") == "dicom"]
    if not read:
        return []
    absent = max(0, facts.CASES.known - len(read))
    tilts = [abs(source["geometry"]["gantry_tilt_deg"]) for source in read]
    shares = (
        (facts.TILTED, sum(tilt >= TILTED_FROM_DEG for tilt in tilts)),
        (
            facts.CONTRAST_NAMED,
            sum(source["series"][0]["contrast"] is True for source in read),
        ),
    )
    slices = [source["slices"] for source in read]
    fewest, most = facts.SHORTEST_CT, facts.LONGEST_CT
    return [
        *(
            (count, found, agreement(count.known - found, absent))
            for count, found in shares
        ),
        (fewest, min(slices), agreement(min(slices) - fewest.known, absent, inf)),
        (most, max(slices), agreement(most.known - max(slices), absent, inf)),
    ]


def agreement(missing: int, absent: int, each: float = 1) -> bool | None:
    """Whether nothing is missing of a known figure; None if the cases that are
    absent, each of which can make up for so much, may hold what is missing."""
    if missing == 0:
        return True
    return None if 0 < missing <= absent * each and absent else False


def known_table(cases: Sequence[CaseFacts | PreparedCase]) -> str:
    """The known counts beside what was found."""
    return table(
        ("what", "known", "here", "agrees", "source"),
        [
            (count.what, count.known, found, AGREES[agrees], count.source)
            for count, found, agrees in known_counts(cases)
        ],
    )


def oddity_table() -> str:
    """Everything odd about the download, what is done about it, and who says so."""
    rows = table(
        ("what", "cases", "what is done", "source"),
        [
            (row.what, ", ".join(row.cases) or "any", row.done, row.source)
            for row in facts.ODDITIES
        ],
    )
    sources = bullets(f"{name}: {at}" for name, at in facts.SOURCES.items())
    return f"{rows}\n\nSources:\n\n{sources}"
