"""What is known of one case before it is prepared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adn_jax.io.image import Image
from adn_jax.prepare.tissue import TissueMaps
from adn_jax.scans.read import RawScan


@dataclass(frozen=True)
class CaseInput:
    """A scan and what belongs to it; every image was drawn on the scan (`onto_scan`).

    `lesion` is infarct or not (0, 1), `brain` a mask that wins over ours, `tissue` maps
    of grey matter, white matter and CSF, `pathological` the HU that the infarct took
    away (phantoms), `truth` what else a phantom knows.
    """

    scan: RawScan
    lesion: Image | None = None
    brain: Image | None = None
    tissue: TissueMaps | None = None
    pathological: Image | None = None
    truth: Mapping[str, Any] = field(default_factory=dict)
