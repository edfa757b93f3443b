from pathlib import Path

import pytest

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.data.cases import CaseFacts, read_facts
from adn_jax.data.manifest import Manifest, read_manifest
from adn_jax.datasets.aisd.facts import CONTRAST_NAMED, LONGEST_CT, TILTED, known_counts
from adn_jax.datasets.raw import RawDataset, RefusedCase
from adn_jax.datasets.recognise import find_dataset
from adn_jax.datasets.report import report, write_report
from adn_jax.prepare.dataset import prepare_dataset
from adn_jax.report.tables import bullets, table
from tests.datasets.aisd import download as fake

SETTINGS = PrepareSettings(shape=(16, 48, 40), spacing_mm=(10.0, 4.5, 4.5))


def test_tables_keep_their_cells():
    assert bullets(["one", "two"]) == "- one\n- two"
    assert table(("a", "b"), []) == ""
    text = table(("a", "b"), [(1, "x | y\nz")])
    assert text == "| a | b |\n| --- | --- |\n| 1 | x \\| y z |"


def facts(name="a", flags=(), **source) -> CaseFacts:
    return CaseFacts(name, {}, tuple(flags), source, volumes=frozenset())


def test_the_report_of_any_layout(tmp_path):
    cases = tuple(RefusedCase(name, "") for name in "abc")
    dataset = RawDataset(tmp_path / "raw", "plain", cases, remarks=("a remark",))
    manifest = Manifest(
        settings=SETTINGS,
        cases=("a", "b"),
        splits={"train": ("a",), "validation": (), "test": ("b",)},
        folder=tmp_path / "out",
        failed={"c": "it is broken"},
        left_out={"d": "not wanted"},
        layout="plain",
    )
    found = [facts("b", ["odd"]), facts("a", fixed=["put | right", "again"])]
    write_report(tmp_path / "report.md", dataset, manifest, iter(found))
    text = (tmp_path / "report.md").read_text()
    assert text == report(dataset, manifest, found)
    assert "16 x 48 x 40 voxels of 10 x 4.5 x 4.5 mm (z y x)" in text
    assert "label values 1, 2, 3, 5 are infarct" in text
    for row in (
        *("| found | 4 |", "| left out on purpose | 1 |", "| failed | 1 |"),
        *("| prepared | 2 |", "| with something put right | 1 |"),
        *("| with a flag | 1 |", "| for train | 1 |", "| for test | 1 |"),
        *("| a | put \\| right |", "| a | again |", "| b | odd |"),
        *("| c | it is broken |", "| d | not wanted |", "- a remark"),
    ):
        assert row in text
    assert "odd about the download" not in text


def test_sections_without_content_are_left_out(tmp_path):
    dataset = RawDataset(tmp_path, "plain", ())
    manifest = Manifest(SETTINGS, ("a",), {"train": ("a",)}, tmp_path)
    text = report(dataset, manifest, [facts()])
    assert "##" not in text


def scan_facts(tilt=0.0, contrast=False, slices=20) -> CaseFacts:
    return facts(
        images="dicom",
        slices=slices,
        geometry={"gantry_tilt_deg": tilt},
        series=[{"contrast": contrast}],
    )


@pytest.mark.parametrize(
    ("tilted", "straight", "agrees"),
    [
        *((182, 216, True), (182, 210, True), (181, 217, False), (175, 220, False)),
        *((176, 216, None), (0, 5, None), (183, 5, False)),
    ],
)
def test_counts_agree_unless_what_is_missing_could_make_the_difference(
    tilted, straight, agrees
):
    cases = [scan_facts(-12.0)] * tilted + [scan_facts()] * straight
    found = {count.what: (here, ok) for count, here, ok in known_counts(cases)}
    assert found[TILTED.what] == (tilted, agrees)


def test_counts_that_are_too_high_never_agree():
    cases = [scan_facts(contrast=True)] * 33 + [scan_facts(slices=64)]
    found = {count.what: (here, ok) for count, here, ok in known_counts(cases)}
    assert found[CONTRAST_NAMED.what] == (33, False)
    assert found[LONGEST_CT.what] == (64, False)


def test_slices_of_a_partial_download_tell_only_what_they_contradict():
    for slices, agree in ((20, (None, None)), (11, (True, None)), (64, (None, False))):
        found = [ok for _, _, ok in known_counts([scan_facts(slices=slices)])]
        assert tuple(found[2:]) == agree


def test_png_tell_nothing_of_tilt():
    assert known_counts([facts(images="png", slices=20)]) == []


@pytest.fixture(scope="module")
def prepared(download, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare_dataset(download.folder, out, SETTINGS, workers=1)
    return out


def test_the_report_of_the_whole_download(download, prepared):
    """What was used, put right, left out and failed, for every oddity there is."""
    dataset = find_dataset(download.folder, reading=ReadSettings())
    manifest = read_manifest(prepared)
    cases = [read_facts(prepared / name) for name in manifest.cases]
    text = report(dataset, manifest, cases)
    failed = {fake.DAMAGED, fake.NO_MASK, fake.NO_CT}
    left_out = {fake.ARTEFACT, fake.MISMATCH, fake.TURNED}
    assert set(manifest.failed) == failed
    assert set(manifest.left_out) == left_out
    assert set(manifest.cases) == set(download.heads) - failed - left_out
    for row in (
        *("| found | 16 |", "| left out on purpose | 3 |", "| failed | 3 |"),
        *("| prepared | 10 |", "| with something put right | 3 |"),
        "- HU are read from DICOM",
        "- cases: 16, but 398 are known",
        f"- {fake.MISMATCH} has 13 PNG slices, but 8 files of CT in dicom-1",
        "| cases with a tilted gantry | 182 | 1 | cannot tell |",
        "| cases whose protocol name speaks of contrast | 32 | 1 | cannot tell |",
        "| slices of the shortest CT | 11 | 12 | cannot tell |",
        "| slices of the longest CT | 63 | 36 | cannot tell |",
        f"| {fake.EMPTY_CT} | the copy in dicom-0 is empty; dicom-2 is used |",
        f"| {fake.TWICE} | the copy in dicom-0 is passed over; dicom-3 is used |",
        f"| {fake.TURNED} | its mask is turned and its picture is not",
        f"| {fake.TRUNK} | the trunk is cut off: slices 24 to 35 are kept |",
        f"| {fake.ARTEFACT} | artefacts (stroke-seg-ssl,",
        f"| {fake.MISMATCH} | labels that do not fit the scan (stroke-seg-ssl,",
        f"| {fake.NO_MASK} | it has no masks; unpack mask.zip again. |",
        f"| {fake.NO_CT} | it has no CT; download all of dicom-0 to dicom-3",
        f"| {fake.DAMAGED} | {download.folder}/dicom-1/{fake.DAMAGED}.tar.gz is",
        f"| {fake.ODD_LABEL} | AISD: a reader noted an odd label",
        f"| {fake.EMPTY_LABEL} | no voxel of the label counts as infarct (1, 2",
        "- README: https://github.com/GriffinLiang/AISD at",
        "| 26 PNG slices, but 16 DICOM slices | 0226134 | left out",
    ):
        assert row in text, row
