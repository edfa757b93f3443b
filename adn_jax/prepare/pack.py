"""A prepared data set packed into few large files, for object stores and clusters."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.progress import track

from adn_jax.data.cases import check_sums
from adn_jax.data.manifest import Manifest, read_manifest, write_manifest
from adn_jax.data.shards import check_reach, write_shard
from adn_jax.distributed.preemption import interrupt_on_sigterm
from adn_jax.errors import UserError
from adn_jax.io.files import only_one, remove_remains
from adn_jax.io.paths import Place, is_remote

CASES_PER_SHARD = 128
"""About 110 MB at full size."""


def pack_dataset(
    prepared: Path, out: Place, cases_per_shard: int = CASES_PER_SHARD
) -> Manifest:
    """Pack a prepared data set; a second call only does what is missing or changed.

    Args:
        prepared: folder of a prepared data set.
        out: folder of the packed one, here or in an object store.
        cases_per_shard: how many cases share a file.

    Raises:
        UserError: where `prepared` is none or a case of it is not as it was written,
            or `out` holds a data set that is not packed, or is in s3://.
        KeyboardInterrupt: at Ctrl-C and SIGTERM; another call continues.
    """
    if cases_per_shard < 1:
        raise UserError(
            f"--cases-per-shard is {cases_per_shard}; it has to be at least 1."
        )
    check_reach(out)
    manifest = read_manifest(prepared)
    if manifest.shards:
        raise UserError(
            f"{prepared} is packed already; give the prepared data set it was made of."
        )
    if (out / "manifest.json").is_file() and not read_manifest(out).shards:
        raise UserError(
            f"{out} holds a data set that is not packed; choose another folder."
        )
    with interrupt_on_sigterm(), only_one(out):
        if not is_remote(out):
            remove_remains(Path(out))
        shards = {
            _shard_name(prepared, cases): cases
            for cases in in_shards(manifest.cases, cases_per_shard)
        }
        for name, cases in track(shards.items(), description="packing"):
            if not (out / name).exists():
                folders = [prepared / case for case in cases]
                for folder in folders:
                    check_sums(folder)
                write_shard(out / name, folders)
        packed = replace(
            manifest,
            folder=out,
            shards=tuple(shards),
            cases_per_shard=cases_per_shard,
        )
        write_manifest(packed)
        for path in out.glob("cases-*.array_record"):
            if path.name not in shards:
                path.unlink()
    return packed


def in_shards(cases: Sequence[str], cases_per_shard: int) -> list[tuple[str, ...]]:
    """The cases of each shard, in their order."""
    starts = range(0, len(cases), cases_per_shard)
    return [tuple(cases[start : start + cases_per_shard]) for start in starts]


def _shard_name(prepared: Path, cases: Sequence[str]) -> str:
    """A name that tells the content of a shard, so that a file of it need not be read.

    `case.json` holds the checksums of all files of a case.
    """
    digest = hashlib.sha256()
    for case in cases:
        digest.update(case.encode())
        digest.update((prepared / case / "case.json").read_bytes())
    return f"cases-{digest.hexdigest()[:16]}.array_record"
