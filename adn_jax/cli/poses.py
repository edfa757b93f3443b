"""Options of test-time averaging, the same for every verb that predicts."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from adn_jax.inference.system import Averaging

OneWay = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A flag that can only be turned away from its default."""


@dataclass(frozen=True)
class PoseOptions:
    """Which poses of a scan are averaged over."""

    mirrored: OneWay = False
    """Average over the scan and its mirror image, whatever the recipe says."""
    poses: int | None = None
    """Average over so many further poses, turned and shifted in plane; default: as many
    as the recipe says."""
    averaging: OneWay = True
    """Take the scan as it lies alone, whatever the recipe says."""

    def asked(self) -> Averaging:
        """What is to change in the recipe."""
        if not self.averaging:
            return Averaging(mirrored=False, copies=0)
        return Averaging(self.mirrored or None, self.poses)


WithPoses = Annotated[PoseOptions, tyro.conf.arg(name="")]
"""The options on the command line, without a prefix."""
