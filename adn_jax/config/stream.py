"""Ranges from which heads are drawn on the device, each with its unit and reason.

They are wider than life, so that a real head is one among those drawn: networks that
learn from heads drawn so carry over to scans of any scanner (Billot et al., SynthSeg,
2023). Pairs are (lowest, highest) of a uniform draw.
"""

import math
from dataclasses import dataclass
from typing import Annotated

from adn_jax.config.bounds import (
    Bound,
    Chance,
    NonNegativeFloat,
    NonNegativeXYZ,
    PositiveInt,
    Range,
    Seed,
    all_positive,
)

Sizes = Annotated[Range, all_positive("a lowest and a highest size above 0")]

NonNegativeRange = Annotated[
    Range, Bound("a lowest and a highest value from 0 on", lambda pair: pair[0] >= 0)
]

LimitRange = Annotated[
    NonNegativeRange, Bound("the largest above 0", lambda pair: pair[1] > 0)
]

CutRange = Annotated[
    NonNegativeRange,
    Bound("at most 100, which leaves some of the brain", lambda pair: pair[1] <= 100),
]

Quantiles = Annotated[
    tuple[float, float, float],
    all_positive("three volumes above 0"),
    Bound("volumes that do not fall", lambda values: sorted(values) == list(values)),
]

Counts = Annotated[
    tuple[float, ...],
    Bound(
        "chances of none, one, ... that add up to 1, at least two",
        lambda chances: (
            len(chances) > 1
            and min(chances) >= 0
            and math.isclose(sum(chances), 1.0, abs_tol=1e-3)
        ),
    ),
    Bound("above 0 for some infarct", lambda chances: sum(chances[1:]) > 0),
]


@dataclass(frozen=True)
class StreamSettings:
    """Heads drawn while training, where no data set is given (docs/data.md)."""

    validation_heads: PositiveInt = 32
    """Held-out heads that choose the best weights, all with an infarct unless the
    recipe has `score_healthy`."""
    validation_seed: Seed = 1
    """Seed of the held-out heads, which no seed of a recipe draws for training."""
    epoch_heads: PositiveInt = 256
    """Heads that count as an epoch, for the stop rule alone: none comes twice."""

    rotation_deg: NonNegativeXYZ = (12.0, 6.0, 30.0)
    """Largest rotation about x, y, z: nodding, tilt to a shoulder, turning."""
    shift_mm: NonNegativeXYZ = (4.0, 4.0, 6.0)
    """Largest distance of the head's centre from the grid's, along x, y, z."""
    cut: Chance = 0.25
    """Chance that the field of view cuts the head above or below."""
    cut_mm: CutRange = (5.0, 55.0)
    """Height that is cut off then."""

    scale: Sizes = (0.85, 0.97)
    """Size against the template, which is about 8 % larger than life."""
    stretch: NonNegativeFloat = 0.03
    """Standard deviation of the size along each axis."""
    skew: NonNegativeFloat = 0.04
    """Standard deviation of the shear of one side against the other."""
    deformation_mm: NonNegativeFloat = 3.0
    """Standard deviation of the elastic deformation that both sides share."""
    asymmetry_mm: NonNegativeFloat = 2.0
    """Standard deviation of the elastic deformation that differs between the sides."""
    ventricle: Range = (-0.25, 0.6)
    """Relative growth of the ventricles, the same on both sides."""
    ventricle_asymmetry: NonNegativeFloat = 0.15
    """Standard deviation of the growth of each ventricle alone."""
    atrophy: Range = (0.0, 1.0)
    """Width of sulci, fissures and cisterns: 0 a young brain, 1 strong atrophy."""
    atrophy_asymmetry: NonNegativeFloat = 0.15
    """Standard deviation of `atrophy` between regions and sides."""
    sulci: Range = (0.05, 0.75)
    """Share of CSF in sulci of the head's own, beside the template's."""
    craniectomy: Chance = 0.03
    """Chance of a skull gap, over which the brain bulges or sinks."""
    bulge_mm: Range = (-8.0, 14.0)
    """How far it does."""

    grey_hu: Range = (33.0, 43.0)
    """CT number of grey matter."""
    contrast_hu: NonNegativeRange = (4.0, 10.0)
    """Difference between grey and white matter."""
    csf_hu: Range = (2.0, 13.0)
    """CT number of cerebrospinal fluid."""
    regional_hu: NonNegativeFloat = 1.2
    """Standard deviation of tissue CT numbers between regions and sides."""
    dark_white_hu: NonNegativeRange = (0.0, 12.0)
    """Darkening of ageing white matter (leukoaraiosis), on both sides."""
    dark_white_mm: Range = (-12.0, 14.0)
    """Distance from the ventricles that it reaches; below 0 there is little."""
    lacunes: Chance = 0.12
    """Chance of each of six old lacunes, not labelled."""
    lacune_mm: NonNegativeRange = (1.5, 6.0)
    """Their radius."""
    cyst: Chance = 0.08
    """Chance of an arachnoid cyst or a wide cistern, not labelled."""
    calcified: Chance = 0.5
    """Chance of each calcification: plexus, pineal gland, pallidum."""
    calcified_hu: NonNegativeRange = (30.0, 250.0)
    """Their CT number above the tissue's."""
    dura_hu: NonNegativeRange = (5.0, 35.0)
    """CT number of falx and tentorium above the tissue's."""
    vessel_hu: NonNegativeRange = (0.0, 14.0)
    """CT number of the large arteries above the tissue's."""

    infarcts: Counts = (0.15, 0.5, 0.22, 0.13)
    """Chance of none, one, two, three infarcts."""
    other_side: Chance = 0.3
    """Chance that a further infarct lies on the other side."""
    infarct_quantiles_ml: Quantiles = (1.5, 12.0, 110.0)
    """10th percentile, median and 90th percentile of an infarct's volume before its
    artery's territory, the skull and the head's size cut it: labels have about half."""
    infarct_limits_ml: LimitRange = (0.3, 330.0)
    """Smallest and largest of these; territories of arteries too small for the smallest
    have no infarct."""
    infarct_loss_hu: NonNegativeRange = (2.0, 25.0)
    """Darkening of the core, from hyperacute to old; CSF density is the most."""
    infarct_rim_mm: Sizes = (2.0, 12.0)
    """Width over which the darkening falls from all to nothing."""
    infarct_white: NonNegativeRange = (1.0, 1.0)
    """Share of the darkening that white matter has in a hyperacute infarct, whose grey
    matter loses its contrast first; the older it is, the nearer to 1."""
    infarct_mottle: NonNegativeRange = (0.0, 0.0)
    """Standard deviation of the darkening within an infarct against its mean."""
    swelling_mm: Range = (-4.0, 7.0)
    """Displacement at the border of a large infarct: shrunken if old, else swollen."""
    midline_mm: NonNegativeRange = (0.0, 9.0)
    """Shift of the mid-line by a large infarct as swollen as can be; less by others."""
    haemorrhage: Chance = 0.2
    """Chance of each of three spots of blood in an infarct."""
    haemorrhage_hu: NonNegativeRange = (10.0, 40.0)
    """CT number of the blood above the tissue's."""
    dense_vessel: Chance = 0.3
    """Chance of a dense artery on the side of a fresh infarct."""
    dense_vessel_hu: NonNegativeRange = (10.0, 35.0)
    """Its CT number above the tissue's."""

    slice_mm: Sizes = (0.6, 10.0)
    """Slice thickness; slices thicker than the grid's blur it along z."""
    sharpness: Range = (-0.6, 0.8)
    """Reconstruction kernel: smooth below 0, with overshoot at edges above."""
    noise_hu: NonNegativeRange = (0.3, 4.0)
    """Standard deviation of the white noise in a voxel of the grid, more often low;
    smooth kernels and thick slices then leave less of it."""
    motion: Chance = 0.1
    """Chance of a moved head: slices that lie askew, doubled contours."""
    motion_mm: NonNegativeFloat = 2.5
    """Standard deviation of a slice's displacement then."""
    hardening_hu: NonNegativeRange = (0.0, 14.0)
    """Dark band between the petrous bones."""
    streak_hu: NonNegativeRange = (0.0, 7.0)
    """Streaks of the skull base."""
    cupping_hu: Range = (-2.0, 7.0)
    """Brightening towards the skull."""
    shading_hu: NonNegativeFloat = 0.0
    """Standard deviation of the slope of CT numbers along each axis of the head, at 70
    mm from its middle: a head beside the scanner's centre is darker on one side."""
    bone_hu: NonNegativeRange = (0.0, 90.0)
    """Brightening of the rim that is part bone."""
    bone_mm: Sizes = (0.7, 3.0)
    """Depth of that rim; deeper where the skull lies aslant in thick slices."""
    mask_mm: Range = (-1.5, 1.5)
    """How far the skull strip's brain reaches beyond the true one."""
    offset_hu: Range = (-4.0, 4.0)
    """Error of the CT numbers."""
    gain: Sizes = (0.92, 1.1)
    """Factor of the CT numbers, as of another tube voltage."""
