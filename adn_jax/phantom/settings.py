"""What the phantoms are drawn from: every range with its unit and its reason."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Difficulty:
    """Ranges of one kind of phantom; pairs are (lowest, highest) of a uniform draw."""

    field_of_view_mm: tuple[float, float, float] = (165.0, 240.0, 240.0)
    """Extent of the scan (z y x): from the skull base to above the vertex."""
    in_plane: int = 128
    """Voxels along x and y; 128 keeps files small and a build under a second."""
    slice_mm: tuple[float, float] = (4.0, 6.0)
    """Slice thickness (partial volume); clinical scans have 3-10 mm."""
    rotation_deg: tuple[float, float, float] = (5.0, 1.0, 25.0)
    """Largest rotation of the head about x, y, z, drawn evenly from +- this. About z
    it is what the alignment has to find; about x it only tilts the plane of cut."""
    shift_mm: tuple[float, float, float] = (15.0, 15.0, 4.0)
    """Largest shift of the head along x, y, z, drawn evenly from +- this."""
    head_scale: tuple[float, float] = (0.88, 0.96)
    """Size of the head against the template, which is about 8 % larger than life."""
    deformation_mm: float = 2.5
    """Standard deviation of the elastic deformation that both sides share."""
    asymmetry_mm: float = 1.5
    """Standard deviation of the elastic deformation that differs between the sides."""
    atrophy: tuple[float, float] = (0.35, 0.7)
    """Template share of brain from which a point is tissue: wide sulci at 0.75."""
    atrophy_asymmetry: float = 0.06
    """Standard deviation of `atrophy` between regions and sides: uneven sulci."""
    ventricle: tuple[float, float] = (0.0, 0.45)
    """Relative growth of the ventricles, the same on both sides."""
    ventricle_asymmetry: float = 0.12
    """Standard deviation of the growth of each ventricle alone."""
    grey_hu: float = 37.0
    """CT number of grey matter."""
    white_hu: float = 29.0
    """CT number of white matter."""
    csf_hu: float = 7.0
    """CT number of cerebrospinal fluid."""
    regional_hu: float = 0.5
    """Standard deviation of tissue CT numbers between regions and sides."""
    noise_hu: float = 4.0
    """Standard deviation of the noise in one voxel."""
    noise_correlation_mm: float = 1.0
    """Width (one sigma) of the smooth reconstruction kernel that colours the noise."""
    infarcts: tuple[float, ...] = (0.85, 0.15)
    """Chance of one, two, three ... infarcts."""
    other_side: float = 0.0
    """Chance that a further infarct lies on the other side."""
    infarct_quantiles_ml: tuple[float, float, float] = (14.0, 30.0, 65.0)
    """10th percentile, median and 90th percentile of the total infarct volume."""
    infarct_limits_ml: tuple[float, float] = (8.0, 120.0)
    """Smallest and largest total infarct volume."""
    infarct_loss_hu: tuple[float, float] = (8.0, 12.0)
    """Darkening of the infarct core; early ischaemia loses 4 HU and more."""
    infarct_rim_mm: float = 5.0
    """Width over which the darkening falls from all to nothing."""
    head_holder: bool = False
    """A curved head holder behind the head, which a skull strip must leave out."""
    stored_orientations: tuple[str, ...] = ("RAS",)
    """Voxel orders of the written files, drawn evenly."""


EASY = Difficulty()
"""Enough contrast for a small network on 16 x 64 x 64 voxels and 48 cases."""

HARD = Difficulty(
    in_plane=256,
    slice_mm=(3.0, 10.0),
    rotation_deg=(10.0, 3.0, 25.0),
    deformation_mm=3.0,
    asymmetry_mm=2.5,
    atrophy=(0.3, 0.75),
    atrophy_asymmetry=0.1,
    ventricle=(-0.1, 0.55),
    ventricle_asymmetry=0.2,
    regional_hu=1.0,
    noise_hu=5.5,
    infarcts=(0.5, 0.3, 0.2),
    other_side=0.3,
    infarct_quantiles_ml=(2.3, 12.5, 108.0),
    infarct_limits_ml=(0.5, 334.0),
    infarct_loss_hu=(4.0, 12.0),
    infarct_rim_mm=8.0,
    head_holder=True,
    stored_orientations=("RAS", "LAS", "LPS", "RAS", "LAS"),
)
"""Sizes of the AISD lesions, faint ones among them, and stronger normal asymmetry."""

PRESETS = {"easy": EASY, "hard": HARD}
