"""Predictions of other tools as rows of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adn_jax.data.cases import read_case
from adn_jax.data.manifest import Manifest
from adn_jax.errors import UserError
from adn_jax.evaluation.peers import Peer, find_peer
from adn_jax.io.files import fingerprint
from adn_jax.io.paths import at_home, spelled_out, unread_named
from adn_jax.metrics.overlap import Mask


@dataclass(frozen=True)
class PeerMethod:
    """Another tool, of which nothing is known but its predictions."""

    name: str

    aligned: None = None
    """Whether it turns heads upright is its own affair."""

    steps: str = ""


@dataclass(frozen=True)
class PeerRun:
    """The predictions of another tool that stand beside one seed of the recipes."""

    peer: Peer
    seed: int

    @property
    def system(self) -> PeerMethod:
        """The tool."""
        return PeerMethod(self.peer.name)

    @property
    def folder(self) -> Path:
        """Where its predictions are, and its scores beside them."""
        return self.peer.folder

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.peer.name}-seed{self.seed}"

    def masks(self, manifest: Manifest, cases: Sequence[str]) -> list[Mask]:
        """What it marks in some cases, on the prepared grid."""
        sources = [manifest.case_folder(case) for case in cases]
        return [self.peer.maps(read_case(one), one).predicted for one in sources]


def name_predictions(texts: Sequence[str]) -> list[tuple[str, Path]]:
    """Name and folder of texts such as `nnunet=DIR`; a bare DIR is called as it is.

    Raises `UserError` if two are called alike and not both by NAME=, which would make
    seeds of one tool of them.
    """
    named, bare = [], set()
    for text in texts:
        given, folder = _parted(text)
        name = given or folder.absolute().name
        if not given:
            bare.add(name)
        named.append((name, folder))
    for name in bare:
        alike = [str(folder) for other, folder in named if other == name]
        if len(alike) > 1:
            raise UserError(
                f"--predictions calls {' and '.join(alike)} both {name!r}; name them "
                f"apart as NAME=DIR, or, if they are seeds of one tool, each "
                f"{name}=DIR."
            )
    return named


def _parted(text: str) -> tuple[str, Path]:
    """Name and folder of NAME=DIR; no name where = belongs to the path of a folder."""
    whole = at_home(text)
    given, sign, folder = text.partition("=")
    with unread_named(whole):
        if not sign or "/" in given or whole.is_dir():
            return "", whole
    return given, at_home(folder)


def find_peer_runs(
    named: Sequence[tuple[str, Path]],
    seeds: Sequence[int],
    manifest: Manifest,
    split: str,
) -> list[PeerRun]:
    """Find and check what other tools predicted.

    Folders of one name stand beside the seeds in their order.

    Raises:
        UserError: a tool has more folders than there are seeds, a folder is given
            twice, two of one tool hold the same files, or what `find_peer` refuses.
    """
    runs: list[PeerRun] = []
    sums: dict[str, Path] = {}
    for name, folder in named:
        place = sum(run.peer.name == name for run in runs)
        if any(spelled_out(run.folder) == spelled_out(folder) for run in runs):
            raise UserError(f"--predictions names {folder} twice; give each once.")
        if place == len(seeds):
            raise UserError(
                f"--predictions gives {name} more often than there are seeds "
                f"({len(seeds)}); give a folder for each seed, or name them apart as "
                "NAME=DIR."
            )
        peer = find_peer(folder, manifest, split, name)
        own = fingerprint(name, dict(peer.sha256))
        if own in sums:
            raise UserError(
                f"{sums[own]} and {folder}, given as two seeds of {name}, hold the "
                "same predictions; give those of each seed, or one of the folders."
            )
        sums[own] = folder
        runs.append(PeerRun(peer, seeds[place]))
    return runs
