"""Which cases a run has learnt from: scores of those would tell too much."""

import sys
from collections.abc import Sequence

from adn_jax.data.cases import VOLUME_FILES, case_checksums
from adn_jax.data.manifest import Manifest, read_manifest
from adn_jax.data.stream import DRAWN_DIGEST
from adn_jax.errors import UserError, few_of, is_refusal
from adn_jax.io.paths import Source, spelled_out, to_place
from adn_jax.training.runs import Run, run_place


def learnt_cases(
    run: Run, manifest: Manifest, cases: Sequence[str]
) -> list[str] | None:
    """Those cases whose scan a run has learnt from, or the run with whose weights it
    began; None if that is not known any more."""
    try:
        return _learnt_by_each(run, manifest, cases)
    except Exception as error:  # each store has errors of its own
        if not is_refusal(error) and not isinstance(error, UserError):
            raise
        return None


def not_known(run: Run, manifest: Manifest) -> str:
    """What there is to say where `learnt_cases` is None."""
    return (
        f"which cases {run.folder} has learnt from is not known any more; those of "
        f"{manifest.folder} may be among them."
    )


def _learnt_by_each(
    run: Run, manifest: Manifest, cases: Sequence[str]
) -> list[str] | None:
    """As `learnt_cases`; raises where a data set or a run is out of reach."""
    seen = _learnt_by(run, manifest, cases)
    before = run.pretrained.get("joint")
    if before is None or seen is None:
        return seen
    earlier = _learnt_by_each(Run.open(run_place(before)), manifest, cases)
    return None if earlier is None else [*dict.fromkeys((*seen, *earlier))]


def _learnt_by(run: Run, manifest: Manifest, cases: Sequence[str]) -> list[str] | None:
    """Those cases whose scan this run itself has learnt from; None if its data has
    changed, or the run does not say where it is. Tells cases whose name alone is that
    of one."""
    if run.cases_sha256 == DRAWN_DIGEST:
        return []
    if run.cases_sha256 is None:  # imported weights, or an old run
        return [] if run.data in {None, spelled_out(manifest.folder)} else None
    own = run.splits_of(manifest)
    if run.cases_sha256 == own.digest:
        return [name for name in cases if name in own.splits.get("train", ())]
    if run.data is None:
        return None
    trained = run.splits_of(read_manifest(to_place(run.data)))
    if trained.digest != run.cases_sha256:
        return None
    learnt = trained.splits.get("train", ())
    scans = {_scan_sha256(trained.case_folder(name)) for name in learnt} - {None}
    seen = [name for name in cases if _scan_sha256(manifest.case_folder(name)) in scans]
    if alike := [name for name in cases if name in learnt and name not in seen]:
        print(
            f"adn: {run.folder} has learnt from cases of the same names as "
            f"{few_of(alike)} in {manifest.folder}, whose scans differ or cannot be "
            "compared; if they show the same heads, scores tell too much.",
            file=sys.stderr,
        )
    return seen


def _scan_sha256(case: Source) -> str | None:
    """Checksum of a case's prepared scan, whatever its name and label; None: not
    known."""
    file, _ = VOLUME_FILES["volume"]
    return (case_checksums(case) or {}).get(file)
