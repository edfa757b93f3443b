"""The settings of a recipe: one frozen dataclass a concern, each field with its unit.

A recipe is the whole truth of a run: it is written to `RUN/config.json` and any of
its fields can be set on the command line, `--section.field value`. Defaults are the
paper's (Ni et al., MICCAI 2022) unless a field says otherwise.
"""

from dataclasses import dataclass, field
from typing import Literal

Precision = Literal["float32", "bfloat16"]
"""Type of the feature maps in every network."""

Recompute = Literal["nothing", "norms", "blocks"]
"""What the gradient computes again instead of keeping it: nothing; the normalised maps;
or every map inside a block, so that only what goes from block to block is kept."""


@dataclass(frozen=True)
class PrepareSettings:
    """How a raw scan becomes a prepared case."""

    shape: tuple[int, int, int] = (40, 256, 256)
    """Voxels of the prepared grid (z y x)."""
    spacing_mm: tuple[float, float, float] = (5.0, 1.2, 1.2)
    """Voxel size of the prepared grid in mm (z y x)."""
    window_hu: tuple[float, float] = (0.0, 80.0)
    """HU that become 0 and 1; the usual brain window (not stated in the paper)."""
    infarct_labels: tuple[int, ...] = (1, 2, 3, 5)
    """Label values that count as infarct; the authors' rule for AISD (values 0-5)."""
    tissue: Literal["auto", "given", "atlas", "none"] = "auto"
    """Tissue maps: given ones, from the atlas, none; auto: given, else none."""


@dataclass(frozen=True)
class ReadSettings:
    """How raw data is found and read; a recipe does not depend on it."""

    layout: Literal["auto", "plain", "bids", "nnunet", "aisd"] = "auto"
    """Layout of the raw data set; auto: recognised by its folders."""
    series: str = ""
    """DICOM series to take, by number or part of its description, not by our choice."""
    atlas: str = ""
    """Folder of another tissue atlas (grey, white and csf maps); empty: ICBM 152."""
    aisd_images: Literal["auto", "dicom", "png"] = "auto"
    """AISD: read HU from DICOM or the 8-bit PNG; auto: DICOM for all cases, unless the
    download has none."""
    aisd_unpack: str = ""
    """AISD: folder into which packed archives are unpacked, once (pictures, masks and
    CT); empty: archives have to be unpacked before."""
    aisd_spacing_mm: tuple[float, float, float] = (5.0, 0.45, 0.45)
    """AISD: voxel size (z y x) of cases read from PNG, which do not tell it."""
    aisd_window_hu: tuple[float, float] = (0.0, 80.0)
    """AISD: HU of the values 0 and 255 of a PNG, which does not tell them."""
    aisd_leave_out: Literal["broken", "cl-segnet", "none"] = "broken"
    """AISD: cases left out on purpose: those with known defects, those that Cl-SegNet
    left out, or none."""


@dataclass(frozen=True)
class ViewNetSettings:
    """Network T: a strided residual encoder that looks at the whole head."""

    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Feature maps of each stage; a stage halves every axis."""
    rotation_limit_deg: tuple[float, float, float] = (0.0, 0.0, 60.0)
    """Largest rotation about x, y, z in degrees."""
    translation_limit: tuple[float, float, float] = (1.0, 1.0, 0.0)
    """Largest shift along x, y, z in half-extents (1: half the image)."""
    identity_start: bool = False
    """Start from the identity view (near-zero last layer): tanh does not saturate."""


@dataclass(frozen=True)
class UNetSettings:
    """Networks D, F and the tissue net."""

    kind: Literal["residual_unet", "unet"] = "residual_unet"
    """Which network."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Feature maps of each level; a level halves every axis."""
    outputs: int = 1
    """Output channels: 1 is a sigmoid map, more are class logits."""
    groups: int = 8
    """Groups of the group normalisation (1 where a map has fewer channels)."""
    dropout: float = 0.2
    """Chance that an element is dropped after each encoder and decoder stage."""
    prior: float | None = None
    """Output probability before training, set by the last bias; None: near 0.5."""


@dataclass(frozen=True)
class AlignmentSettings:
    """How T finds the mid-sagittal plane."""

    network: bool = True
    """Let T look at the volume; else the search below has to find the view alone."""
    centre: bool = False
    """Move the centre of mass to the centre of the volume before anything else."""
    search_limit_deg: float = 0.0
    """Search this far around T's angle (around 0 without T); 0: no search."""
    search_step_deg: float = 2.0
    """Step of the search."""
    refine_steps: int = 0
    """Optimizer steps on the mirror loss that refine the view of each scan."""
    refine_rate: float = 0.02
    """Step size of the refinement at its start (radians and half-extents)."""


@dataclass(frozen=True)
class AsymmetrySettings:
    """How Q and the two synthetic volumes are formed (docs/differences.md)."""

    anatomical: Literal["difference", "positive_part"] = "difference"
    """Q = A - P (paper) or max(A - P, 0) (authors' code)."""
    compensated: Literal["sum", "clipped"] = "sum"
    """X_tilde = X + P (paper) or min(X + P, max(X, X')) (authors' code)."""


@dataclass(frozen=True)
class AlignLossSettings:
    """Weights of the terms that train T."""

    mirror: float = 1.0
    """mean |X - X'| (equation 1)."""
    mirror_in_view: float = 0.0
    """mean |X - X'| over the head's mean intensity still in view: no gain from pushing
    the head out (ours)."""
    reconstruction: float = 0.0
    """mean |I - sample(X', M^-1)| (authors' code)."""
    view_regression: float = 0.0
    """Squared distance to the answer of the coarse search (ours)."""
    warm_start_steps: int = 0
    """Steps at the start with the view regression alone."""
    extra: tuple[str, ...] = ()
    """Terms of your own: `module:function` or `module:function:weight`."""


@dataclass(frozen=True)
class JointLossSettings:
    """Weights of the terms that train D and F together (equations 4 to 6)."""

    grid: Literal["scan", "aligned"] = "scan"
    """Where L_F is taken: O against G (paper) or Y against T(G) (authors' code)."""
    cross_entropy: float = 1.0
    """Binary cross-entropy of the prediction (equation 4)."""
    generalised_dice: float = 1.0
    """Generalised Dice loss of the prediction."""
    regularisation: float = 10.0
    """lambda: the common weight of all terms of L_D below (equation 6)."""
    tissue: float = 1.0
    """P on grey mirrored onto white, on white mirrored onto grey, and on CSF."""
    tissue_one_way: float = 0.0
    """P on grey flipped onto white, and on CSF (authors' code)."""
    size: float = 1.0
    """|mean P - mean T(G)|."""
    size_in_asymmetry: float = 0.0
    """|mean P - mean(A * T(G))| (authors' code)."""
    symmetric: float = 1.0
    """mean(P * (1 - A)): P where there is no asymmetry."""
    symmetric_voxels: float = 0.0
    """mean(P * [A = 0]) (authors' code)."""
    intrinsic: float = 1.0
    """-|mean(A - P)|: as much asymmetry as possible is anatomical."""
    intrinsic_positive: float = 0.0
    """-mean(max(A - P, 0)) (authors' code)."""
    warm_start_steps: int = 334
    """Steps at the start in which cross-entropy and generalised Dice of P against T(G)
    take the place of L_D (2 epochs of 167 steps)."""
    extra: tuple[str, ...] = ()
    """Terms of your own: `module:function` or `module:function:weight`."""


@dataclass(frozen=True)
class AugmentSettings:
    """Augmentation on the device; labels and tissue move along, nearest neighbour."""

    gamma: float = 0.25
    """Intensity exponent drawn from 1 +- this (authors' code)."""
    mirror: bool = True
    """Left-right flip of every second case."""
    rotation_deg: float = 10.0
    """In-plane rotation drawn from +- this many degrees."""
    translation: float = 0.0
    """In-plane shift drawn from +- this many half-extents."""


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with poly decay: rate * (1 - step / steps) ** power."""

    learning_rate: float = 1e-3
    """Rate at step 0."""
    weight_decay: float = 5e-4
    """Decoupled weight decay, on every parameter."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments."""
    decay_power: float = 0.9
    """Power of the poly decay."""
    clip_norm: float | None = None
    """Largest global gradient norm; None: no clipping."""


@dataclass(frozen=True)
class StageSettings:
    """One stage of training; 0 steps leave it out."""

    steps: int = 0
    """Optimizer steps."""
    batch: int = 6
    """Cases a step, over all devices."""
    micro_batches: int = 1
    """Parts of a batch that a step takes one after the other, to need less memory; what
    a loss sums over its batch, it then sums over a part."""
    validate_every: int = 167
    """Steps between validations on held-out cases, each with a checkpoint."""
    patience_epochs: int = 0
    """Stop when the training Dice has stayed the same for this many epochs; 0: never.
    The paper's rule is 2."""
    patience_tolerance: float = 0.001
    """Change of the training Dice that still counts as the same."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """How the parameters move."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    """How the cases are varied."""


@dataclass(frozen=True)
class Recipe:
    """One runnable system: data preparation, networks, losses, training."""

    name: str
    """Name of the recipe, for tables and reports."""
    seed: int = 0
    """Seed of everything random."""
    precision: Precision = "float32"
    """Type of the feature maps in every network; parameters, statistics, geometry,
    losses and optimizer stay in float32."""
    recompute: Recompute = "nothing"
    """What the gradients of the U-Nets compute again to need less memory."""
    tissue_source: Literal["maps", "network", "none"] = "maps"
    """Tissue for L_tissue: the prepared maps, the tissue net run on X, or none."""
    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    """Preparation of raw scans."""
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    """Finding the mid-sagittal plane."""
    asymmetry: AsymmetrySettings = field(default_factory=AsymmetrySettings)
    """Q and the synthetic volumes."""
    view_net: ViewNetSettings = field(default_factory=ViewNetSettings)
    """Network T."""
    disentangle_net: UNetSettings = field(default_factory=UNetSettings)
    """Network D."""
    segment_net: UNetSettings = field(default_factory=UNetSettings)
    """Network F."""
    tissue_net: UNetSettings = field(default_factory=lambda: UNetSettings(outputs=5))
    """Tissue network; class 4 is lesion in the authors' checkpoints, unused here."""
    align_loss: AlignLossSettings = field(default_factory=AlignLossSettings)
    """Loss of T."""
    joint_loss: JointLossSettings = field(default_factory=JointLossSettings)
    """Loss of D and F."""
    align: StageSettings = field(default_factory=StageSettings)
    """Stage 1: T alone."""
    tissue: StageSettings = field(default_factory=StageSettings)
    """Stage 2: the tissue net, where `tissue_source` is network."""
    joint: StageSettings = field(default_factory=StageSettings)
    """Stage 3: D and F together, T fixed."""
    partial_labels: bool = False
    """Learn which share of a voxel is infarct (ours), not whether most of it is."""
    threshold: float = 0.5
    """Probability from which a voxel is called infarct."""
