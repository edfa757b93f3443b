"""What is odd about the AISD download, what is done about it, and who says so.

The download: https://github.com/GriffinLiang/AISD (non-commercial use only).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from adn_jax.data.cases import CaseFacts, PreparedCase
from adn_jax.report.tables import bullets, table

SOURCES = {
    "README": "https://github.com/GriffinLiang/AISD at 653ff28",
    "issue": "https://github.com/GriffinLiang/AISD/issues/",
    "stroke-seg-ssl": "https://github.com/joaco18/stroke-seg-ssl at 88bf23a, data/",
    "Cl-SegNet": "https://github.com/hulinkuang/Cl-SegNet at e8e1982",
    "ICC": "https://github.com/Codeaizan/ICC, notes on a user's conversion",
    "converters": "several public converters of AISD to NIfTI",
    "paper": "Ni et al., Asymmetry Disentanglement Network, MICCAI 2022",
}
"""Who says so, by the name that rows give."""

METADATA = "stroke-seg-ssl, metadata_files/metadata_aisd.csv"

CONVERTER = "stroke-seg-ssl, clean_aisd.py"

READER = "stroke-seg-ssl, manual_labels/aisd_manual_lab.csv"

TEST_IDS = frozenset(
    """
    0021092 0021822 0072681 0072691 0072723 0072765 0073060 0073312 0073410 0073424
    0073489 0073540 0091383 0091415 0091458 0091476 0091507 0091534 0091538 0091621
    0091646 0091657 0226125 0226133 0226136 0226137 0226142 0226188 0226199 0226257
    0226258 0226261 0226290 0226298 0226299 0226307 0226309 0226314 0537908 0537925
    0537961 0537990 0538058 0538319 0538425 0538502 0538505 0538532 0538780 0538975
    0538983 0539025
    """.split()  # noqa: SIM905
)
"""The official test set (README, item 5; the same in stroke-seg-ssl and Cl-SegNet)."""


@dataclass(frozen=True)
class Count:
    """A figure that others counted in the whole download."""

    what: str
    known: int
    source: str


CASES = Count("cases", 398, METADATA)

TRAIN = Count("cases of the training set", 346, METADATA)

TEST = Count("cases of the test set", 52, "README")

SLICES = Count("CT slices", 10962, METADATA)

SHORTEST_CT = Count("slices of the shortest CT", 11, METADATA)

LONGEST_CT = Count("slices of the longest CT", 63, METADATA)

TILTED = Count("cases with a tilted gantry", 182, METADATA)

CONTRAST_NAMED = Count("cases whose protocol name speaks of contrast", 32, METADATA)

TILTED_FROM_DEG = 0.1

AGREES = {True: "yes", False: "NO", None: "cannot tell"}


@dataclass(frozen=True)
class Oddity:
    """Something a converter has to know, as a row of the table in docs/aisd.md.

    `cases` are the ids it is about; none: the whole download.
    """

    key: str
    what: str
    done: str
    source: str
    cases: tuple[str, ...] = ()


FIRST_SLICE = {"0091519": 24, "0091551": 24, "0091580": 30}
"""Scans that reach down to the trunk: the first slice that is kept, counted from 0."""

ODDITIES = (
    Oddity(
        "nested",
        "unzip leaves one or two folder levels (`image/image/<id>`), and some put the "
        "archives into a folder `dicom/`",
        "folders are searched for case ids, down to three levels",
        "ICC",
    ),
    Oddity(
        "packed",
        "image.zip, mask.zip and dicom-0.tar.gz to dicom-3.tar.gz (also seen as "
        "dicom-3.zip) come packed",
        "`--aisd-unpack DIR` unpacks PNG and CT once, not the MRI; else the commands "
        "are named",
        "README; ICC",
    ),
    Oddity(
        "packed_case",
        "an archive of its own a case inside dicom-N (`<id>.tar.gz`)",
        "it is read in place; a damaged one fails alone, with its reason",
        "converters",
    ),
    Oddity(
        "numbering",
        "PNG are numbered from 000, DICOM files from 001",
        "PNG i belongs to the i-th slice by position along the slices' normal, never "
        "by file name",
        "stroke-seg-ssl, data_utils.py",
    ),
    Oddity(
        "order",
        "converters offer to turn the order of the slices (`--flip-z`)",
        "the picture is compared with the DICOM slices in all 16 orientations; the "
        "clear winner is used, without one the case is refused",
        "converters",
    ),
    Oddity(
        "mri",
        "the MRI lies in `DWI/`, in some cases in `MRI/`; some DWI are 4D",
        "only `CT/` is read",
        CONVERTER,
        ("0538549",),
    ),
    Oddity(
        "copies",
        "these cases lie in dicom-0 and again in a later archive; those in dicom-0 are "
        "empty or incomplete",
        "the last archive that holds slices counts",
        f"README; issue 5; {CONVERTER}",
        ("0091465", "0091468", "0091505", "0091519", "0073366"),
    ),
    Oddity(
        "empty",
        "its CT folder in dicom-0 is empty; the README counts 397 cases, with it there "
        "are 398",
        "the copy in another archive is used; without one the case fails",
        f"ICC; {METADATA}",
        ("0073366",),
    ),
    Oddity(
        "mismatch",
        "26 PNG slices, but 16 DICOM slices",
        "left out (`broken`); else refused, because the label fits no slice",
        "issue 18",
        ("0226134",),
    ),
    Oddity(
        "trunk",
        "the scan reaches down to the trunk",
        "its first 24 slices (0091580: 30) are cut off",
        CONVERTER,
        tuple(FIRST_SLICE),
    ),
    Oddity(
        "orientation",
        "its mask is turned and its picture is not, so that the picture cannot tell; a "
        "converter turned the label by hand",
        "left out (`broken`); else flagged",
        CONVERTER,
        ("0073465",),
    ),
    Oddity(
        "artifacts",
        "artefacts",
        "left out (`broken`)",
        READER,
        ("0091530", "0091684", "0226130"),
    ),
    Oddity(
        "misregistered",
        "labels that do not fit the scan",
        "left out (`broken`)",
        READER,
        ("0226134",),
    ),
    Oddity(
        "slab",
        "the scan is a slab of the head",
        "left out (`broken`)",
        READER,
        ("0538050",),
    ),
    Oddity(
        "discarded",
        "discarded by a converter, without a reason",
        "left out (`broken`)",
        "stroke-seg-ssl, dataset.csv",
        ("0538651",),
    ),
    Oddity(
        "cl_segnet",
        "not among the 393 cases of Cl-SegNet",
        "left out with `cl-segnet`",
        "Cl-SegNet, data/splits_final.pkl",
        ("0091465", "0091468", "0091505", "0091519", "0226134"),
    ),
    Oddity(
        "odd_label",
        "a reader noted an odd label",
        "kept and flagged",
        READER,
        ("0091366",),
    ),
    Oddity(
        "symmetric",
        "a reader noted infarcts that are alike on both sides, which asymmetry cannot "
        "show",
        "kept and flagged",
        READER,
        ("0091439", "0091529"),
    ),
    Oddity(
        "contrast",
        "the protocol name of 32 series speaks of contrast (29 `*CTA*`, 3 "
        "`*AngioDSA`), that of another one of the chest",
        "kept and flagged, by the name in the DICOM header",
        METADATA,
    ),
    Oddity(
        "tilt",
        "182 of the 398 series were taken with a tilted gantry",
        "the label takes the same way through straightening as the scan",
        METADATA,
    ),
    Oddity(
        "spacing",
        "the README says 5 mm; 11 to 63 slices a case (most often 14 or 42) tell that "
        "it varies, the paper counts 3 to 10 mm",
        "taken from the DICOM headers; for PNG `--aisd-spacing-mm`, with a flag",
        f"README; {METADATA}; paper",
    ),
    Oddity(
        "window",
        "PNG are 8-bit in a brain window that is nowhere stated",
        "HU from DICOM; without it `--aisd-window-hu` is assumed, with a flag",
        "README",
    ),
    Oddity(
        "labels",
        "masks hold 0 background, 1 remote, 2 clear acute, 3 blurred acute, 4 "
        "invisible acute, 5 infarct, and look black in viewers",
        "`--infarct-labels`, {1, 2, 3, 5} as the README says; values above 5 that it "
        "does not name are refused",
        "README; issue 2; issue 17",
    ),
    Oddity(
        "no_infarct",
        "no mask is empty, but under the rule {1, 2, 3, 5} one can be",
        "prepared and flagged",
        "stroke-seg-ssl, dataset.csv",
    ),
    Oddity(
        "split",
        "the 5 lists of folds in a converter mix test cases in; the README lists 52 "
        "test cases",
        "the official test cases; `splits.json` or `test.txt` beside the download wins",
        "README; Cl-SegNet, Task402_AIS.py; stroke-seg-ssl, dataset.csv",
    ),
)
"""Every known oddity of the download."""

ODDITY_BY_KEY = {row.key: row for row in ODDITIES}

LEFT_OUT = {
    "broken": ("misregistered", "artifacts", "slab", "discarded", "orientation"),
    "cl-segnet": ("cl_segnet",),
    "none": (),
}
"""Rows whose cases are left out, by `ReadSettings.aisd_leave_out`."""

FLAGGED = ("odd_label", "symmetric", *LEFT_OUT["broken"])
"""Rows whose cases get a flag where they are used."""


def left_out(name: str, setting: str) -> str | None:
    """Why a case is left out on purpose; None if it is used."""
    rows = [
        ODDITY_BY_KEY[key]
        for key in LEFT_OUT[setting]
        if name in ODDITY_BY_KEY[key].cases
    ]
    return f"{rows[0].what} ({rows[0].source})" if rows else None


def flags(name: str) -> tuple[str, ...]:
    """What others noted about a case, a sentence each."""
    rows = [ODDITY_BY_KEY[key] for key in FLAGGED if name in ODDITY_BY_KEY[key].cases]
    return tuple(f"AISD: {row.what} ({row.source})" for row in rows)


def known_counts(
    cases: Sequence[CaseFacts | PreparedCase],
) -> list[tuple[Count, int, bool | None]]:
    """What others counted, what was found in prepared cases, and whether both agree;
    None: it cannot be told, for cases that are not prepared may make the difference."""
    read = [case.source for case in cases if case.source.get("images") == "dicom"]
    if not read:
        return []
    absent = max(0, CASES.known - len(read))
    tilts = [abs(source["geometry"]["gantry_tilt_deg"]) for source in read]
    shares = (
        (TILTED, sum(tilt >= TILTED_FROM_DEG for tilt in tilts)),
        (
            CONTRAST_NAMED,
            sum(source["series"][0]["contrast"] is True for source in read),
        ),
    )
    slices = [source["slices"] for source in read]
    fewest, most = SHORTEST_CT, LONGEST_CT
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
            for row in ODDITIES
        ],
    )
    sources = bullets(f"{name}: {at}" for name, at in SOURCES.items())
    return f"{rows}\n\nSources:\n\n{sources}"
