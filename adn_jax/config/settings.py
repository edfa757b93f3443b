"""The settings of a recipe: one frozen dataclass a concern, each field with its unit.

A recipe is the whole truth of a run: it is written to `RUN/config.json` and any of
its fields can be set on the command line, `--section.field value`. Defaults are the
paper's (Ni et al., MICCAI 2022) unless a field says otherwise.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import tyro

from adn_jax.config.bounds import (
    BelowOne,
    Box,
    Chances,
    ClipNorm,
    Decays,
    Degrees,
    DegreesXYZ,
    Fraction,
    Fractions,
    GridShape,
    GridSpacing,
    KernelSides,
    Labels,
    NonNegativeFloat,
    NonNegativeInt,
    NonNegativeXYZ,
    OddInt,
    PathwaySteps,
    PositiveFloat,
    PositiveInt,
    Prior,
    Seed,
    Threshold,
    Widths,
    Window,
    Windows,
)
from adn_jax.config.stream import StreamSettings

Precision = Literal["float32", "tensorfloat32", "bfloat16"]
"""What the networks compute in on an accelerator; a CPU multiplies float32 as it is.

float32: maps and products in float32 (jax's "highest"). tensorfloat32: maps in float32,
products in TF32 on a GPU and by three of bfloat16 on a TPU ("high", bfloat16_3x).
bfloat16: maps in bfloat16, whose products are exact. Sums are float32 in all of them.
"""

Remat = Literal["auto", "nothing", "norms", "blocks"]
"""What the gradient computes again instead of keeping it: nothing; the normalised maps;
or every map inside a block, so that only what goes from block to block is kept. "auto"
is the normalised maps on a GPU, and nothing elsewhere."""

SegmentInput = Literal["salient", "salient_triple", "aligned", "mirror_pair"]
"""What F sees."""


@dataclass(frozen=True)
class PrepareSettings:
    """How a raw scan becomes a prepared case."""

    shape: GridShape = (40, 256, 256)
    """Voxels of the prepared grid (z y x)."""
    spacing_mm: GridSpacing = (5.0, 1.2, 1.2)
    """Voxel size of the prepared grid in mm (z y x)."""
    window_hu: Window = (0.0, 80.0)
    """HU that become 0 and 1; the usual brain window (not stated in the paper)."""
    infarct_labels: Labels = (1, 2, 3, 5)
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
    hu_range: tuple[float, float] | None = None
    """HU to which a scan's values were clipped before, -17 80 for instance: its bone
    and air are put in again; None: it was not clipped. Not for AISD's pictures."""
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
class AlignmentNetSettings:
    """Network T: a strided residual encoder that looks at the whole head."""

    widths: Widths = (32, 64, 128, 256)
    """Feature maps of each stage; a stage halves every axis."""
    rotation_limit_deg: DegreesXYZ = (0.0, 0.0, 60.0)
    """Largest rotation about x, y, z in degrees."""
    translation_limit: NonNegativeXYZ = (1.0, 1.0, 0.0)
    """Largest shift along x, y, z in half-extents (1: half the image)."""
    identity_start: bool = False
    """Start from the identity (near-zero last layer): tanh does not saturate."""

    @staticmethod
    def groups(width: int) -> int:
        """Groups of a stage's normalisation: of four maps, or the next number above by
        which all groups are alike."""
        return next(n for n in range(max(1, width // 4), 0, -1) if width % n == 0)


@dataclass(frozen=True)
class UNetSettings:
    """Networks D, F and the tissue net."""

    kind: Literal["residual_unet", "unet"] = "residual_unet"
    """Which network."""
    widths: Widths = (32, 64, 128, 256)
    """Feature maps of each level; a level halves every axis."""
    outputs: PositiveInt = 1
    """Output channels: 1 is a sigmoid map, more are class logits."""
    groups: PositiveInt = 8
    """Groups of the group normalisation (1 where a map has fewer channels)."""
    dropout: BelowOne = 0.2
    """Chance that an element is dropped after each encoder and decoder stage."""
    prior: Prior = None
    """Output probability before training, set by the last bias; None: near 0.5."""
    in_plane_levels: NonNegativeInt = 0
    """The first so many poolings leave z as it is: for thick slices (ours)."""
    deep_supervision: NonNegativeInt = 0
    """F alone: decoder levels below the last that also give logits, each compared with
    the label at weight 1/2, 1/4, ... (as in nnU-Net)."""


@dataclass(frozen=True)
class DeepMedicSettings:
    """DeepMedic (Kamnitsas et al. 2017) as its repository ships it: a patch network
    whose pathways look at the same place at several resolutions."""

    kind: Literal["deepmedic"] = "deepmedic"
    """Which network."""
    widths: Widths = (30, 30, 40, 40, 40, 40, 50, 50)
    """Feature maps of the 3 x 3 x 3 layers of each pathway."""
    steps: PathwaySteps = (1, 3, 5)
    """Each pathway takes every so many voxels; odd, the first 1."""
    residual: tuple[int, ...] = (4, 6, 8)
    """Layers of a pathway, from 1, to whose output the input of the layer before is
    added."""
    joined_widths: Widths = (250, 250)
    """Feature maps of the layers on all pathways together."""
    joined_kernels: KernelSides = (3, 1)
    """Their kernel sides, 1 or 3."""
    joined_residual: tuple[int, ...] = (2,)
    """Those of them, from 1, to whose output the input of the layer before is added."""
    dropout: Chances = (0.0, 0.5, 0.5)
    """Chance that an element is dropped before each of them, the classifier last."""
    prior: Prior = None
    """Output probability before training, set by the last bias; None: near 0.5."""
    samples: PositiveInt = 4
    """Patches of each case that an update learns from."""
    lesion_fraction: Fraction = 0.5
    """Share of them around a lesion voxel; the others are around brain without."""
    side: OddInt = 21
    """Voxels that a patch of training predicts along each axis."""
    tile: OddInt = 45
    """The same in inference, a multiple of every step."""


@dataclass(frozen=True)
class SymmetryNetSettings:
    """SEAN (Liang et al. 2021): slices with neighbours, attention to the own and to the
    other side of the head."""

    kind: Literal["sean"] = "sean"
    """Which network."""
    widths: Widths = (64, 128, 256, 512, 1024)
    """Feature maps of each level; the attention is on the last."""
    neighbours: NonNegativeInt = 1
    """Slices above and below that a slice is seen with."""
    windows: Windows = (4, 4)
    """Parts along y and x into which the attention divides a slice."""
    prior: Prior = None
    """Output probability before training, set by the last bias; None: near 0.5."""
    samples: PositiveInt = 4
    """Slices of each case that an update learns from."""
    lesion_fraction: Fraction = 0.5
    """Share of them with lesion; the others are any slices of the brain."""


PatchNetSettings = DeepMedicSettings | SymmetryNetSettings
"""Networks that see patches of a volume, not the whole."""

SegmentNetSettings = UNetSettings | DeepMedicSettings | SymmetryNetSettings
"""Networks that can be F; `kind` tells which."""


@dataclass(frozen=True)
class AlignmentSettings:
    """How T finds the mid-sagittal plane."""

    network: bool = True
    """Let T look at the volume; else the search below has to find the pose alone."""
    centre: bool = False
    """Move the centre of mass to the centre of the volume before anything else."""
    search_limit_deg: Degrees = 0.0
    """Search this far around T's angle (around 0 without T); 0: no search."""
    search_step_deg: PositiveFloat = 2.0
    """Largest step of the search, whose steps are equal and end at its limit."""
    search_everywhere: bool = True
    """Where there is a search, also begin at every angle about the centre of mass; the
    start that mirrors better after refinement counts, and the brain's shape says where
    the head's front is."""
    refine_steps: NonNegativeInt = 0
    """Optimizer steps on the mirror loss that refine the pose of each scan."""
    refine_rate: PositiveFloat = 0.02
    """Step size of the refinement at its start (radians and half-extents)."""


@dataclass(frozen=True)
class TtaSettings:
    """Test-time augmentation (ours): what else of a scan inference averages over;
    training and its validation see the scan alone."""

    mirrored: bool = False
    """Also take the scan's mirror image."""
    copies: NonNegativeInt = 0
    """Further copies of the scan, turned and shifted in plane."""
    turn_deg: Degrees = 10.0
    """Largest turn of a copy in degrees; they spread evenly over +- this."""
    shift: BelowOne = 0.02
    """Length of a copy's shift in half-extents; each goes another way."""


@dataclass(frozen=True)
class AsymmetrySettings:
    """How P, Q and the two synthetic volumes are formed (docs/differences.md)."""

    anatomical: Literal["difference", "positive_part"] = "difference"
    """Q = A - P (paper) or max(A - P, 0) (authors' code)."""
    compensated: Literal["sum", "clipped"] = "sum"
    """X_tilde = X + P (paper) or min(X + P, max(X, X')) (authors' code)."""
    rim_mm: NonNegativeFloat = 0.0
    """Rim of the brain, in the slice, where A is 0: there voxels are part bone or lie
    beside no brain on the other side (ours; rounded to voxels, at least one). 0: A
    counts everywhere, as published."""
    pathological: Literal["output", "part"] = "output"
    """P is D's output s, whatever A is (paper), or the part A s of A, so that P and Q
    are darkenings that add up to A, neither below 0 (ours)."""

    @property
    def adds_up(self) -> bool:
        """Whether P and Q are parts of A, in its unit."""
        return self.pathological == "part"

    def rim_voxels(self, spacing_mm: tuple[float, float, float]) -> int:
        """Voxels of that rim on a grid of `spacing_mm` (z y x); 0 where A has none."""
        if self.rim_mm == 0:
            return 0
        return max(1, round(self.rim_mm / max(spacing_mm[1:])))


@dataclass(frozen=True)
class AlignLossSettings:
    """Weights of the terms that train T."""

    mirror: NonNegativeFloat = 1.0
    """mean |X - X'| (equation 1)."""
    mirror_in_view: NonNegativeFloat = 0.0
    """mean |X - X'| over the head's mean intensity still in view: no gain from pushing
    the head out (ours)."""
    reconstruction: NonNegativeFloat = 0.0
    """mean |I - sample(X', M^-1)| (authors' code)."""
    pose_regression: NonNegativeFloat = 0.0
    """Squared distance to the answer of the coarse search (ours)."""
    warm_start_steps: NonNegativeInt = 0
    """Steps at the start with the pose regression alone, beside terms of your own."""
    extra: tuple[str, ...] = ()
    """Terms of your own: `module:function` or `module:function:weight`."""
    schedules: tuple[str, ...] = ()
    """Weights that change: `term:FROM:TO` grows from 0 at step FROM to its weight at
    step TO, `term:FROM:TO:A:B` goes from A to B times its weight."""


@dataclass(frozen=True)
class JointLossSettings:
    """Weights of the terms that train D and F together (equations 4 to 6)."""

    grid: Literal["scan", "aligned"] = "scan"
    """Where L_F is taken: O against G (paper) or Y against T(G) (authors' code)."""
    cross_entropy: NonNegativeFloat = 1.0
    """Binary cross-entropy of the prediction (equation 4)."""
    generalised_dice: NonNegativeFloat = 1.0
    """Generalised Dice loss of the prediction."""
    focal_tversky: NonNegativeFloat = 0.0
    """(1 - T)^(3/4) of the prediction, T the Tversky index that charges missed voxels
    0.7 and false ones 0.3 (Abraham and Khan 2019)."""
    boundary: NonNegativeFloat = 0.0
    """Mean of the prediction times the signed distance (mm) to the surface of the
    label, negative inside (Kervadec et al. 2019)."""
    regularisation: NonNegativeFloat = 10.0
    """lambda: the common weight of all terms of L_D below (equation 6)."""
    tissue: NonNegativeFloat = 1.0
    """P on grey mirrored onto white, on white mirrored onto grey, and on CSF."""
    tissue_one_way: NonNegativeFloat = 0.0
    """P on grey flipped onto white, and on CSF (authors' code)."""
    size: NonNegativeFloat = 1.0
    """|mean P - mean T(G)|."""
    size_in_asymmetry: NonNegativeFloat = 0.0
    """|mean P - mean(A * T(G))| (authors' code)."""
    size_by_volume: NonNegativeFloat = 0.0
    """|volume of P - volume of T(G)| / volume of T(G), mean of the cases (ours)."""
    pathology_supervision: NonNegativeFloat = 0.0
    """Cross-entropy and generalised Dice of D's output against T(G) (ours)."""
    pathology_cross_entropy: NonNegativeFloat = 0.0
    """Cross-entropy of D's output against T(G) by itself (ours)."""
    symmetric: NonNegativeFloat = 1.0
    """mean(P * (1 - A)): P where there is no asymmetry."""
    symmetric_voxels: NonNegativeFloat = 0.0
    """mean(P * [A = 0]) (authors' code)."""
    intrinsic: NonNegativeFloat = 1.0
    """-|mean(A - P)|: as much asymmetry as possible is anatomical."""
    intrinsic_positive: NonNegativeFloat = 0.0
    """-mean(max(A - P, 0)) (authors' code)."""
    warm_start_steps: NonNegativeInt = 334
    """Steps at the start in which cross-entropy and generalised Dice of D's output
    against T(G) take the place of L_D (2 epochs of 167 steps)."""
    extra: tuple[str, ...] = ()
    """Terms of your own: `module:function` or `module:function:weight`."""
    schedules: tuple[str, ...] = ()
    """Weights that change: `term:FROM:TO` grows from 0 at step FROM to its weight at
    step TO, `term:FROM:TO:A:B` goes from A to B times its weight; `regularisation` is
    lambda."""
    gradient_norms_every: NonNegativeInt = 0
    """Updates between measurements of each term's gradient; 0: never."""

    @property
    def warm_steps(self) -> int:
        """Steps of the warm start: none without L_D, whose place it takes."""
        return self.warm_start_steps if self.regularisation else 0


@dataclass(frozen=True)
class AugmentSettings:
    """Augmentation on the device; labels and tissue move along, nearest neighbour."""

    gamma: BelowOne = 0.25
    """Intensity exponent drawn from 1 +- this (authors' code)."""
    mirror: bool = True
    """Left-right flip of every second case."""
    rotation_deg: Degrees = 10.0
    """In-plane rotation drawn from +- this many degrees."""
    translation: NonNegativeFloat = 0.0
    """In-plane shift drawn from +- this many half-extents."""
    zoom: BelowOne = 0.0
    """In-plane size drawn from 1 +- this (joint and tissue stages)."""
    brightness: BelowOne = 0.0
    """Intensity added in the brain, drawn from +- this share of the window."""
    noise: BelowOne = 0.0
    """Deviation of the noise added in the brain, drawn from 0 to this share of the
    window."""


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with poly decay, rate * (1 - step / steps) ** power; or RMSProp whose rate
    is halved now and then, as DeepMedic trains."""

    learning_rate: PositiveFloat = 1e-3
    """Rate at step 0."""
    weight_decay: NonNegativeFloat = 5e-4
    """AdamW: decoupled weight decay, on every parameter."""
    betas: Decays = (0.9, 0.999)
    """AdamW: decay of the two moments."""
    decay_power: NonNegativeFloat = 0.9
    """AdamW: power of the poly decay."""
    momentum: BelowOne = 0.6
    """RMSProp: Nesterov momentum."""
    l1: NonNegativeFloat = 1e-6
    """RMSProp: weight of the sum of absolute kernels in the loss."""
    l2: NonNegativeFloat = 1e-4
    """RMSProp: weight of the sum of squared kernels in the loss."""
    halve_at: Fractions = (0.486, 0.629, 0.771, 0.857, 0.943)
    """RMSProp: shares of the steps at which the rate is halved (epochs 17, 22, 27, 30
    and 33 of 35)."""
    clip_norm: ClipNorm = None
    """Largest global gradient norm; None: no clipping."""
    ema_decay: BelowOne = 0.0
    """Decay of an exponential moving average (EMA) of the parameters, which is then
    what is validated and used; 0: the parameters themselves are."""
    kind: Literal["adamw", "rmsprop"] = "adamw"
    """Which optimizer."""


@dataclass(frozen=True)
class StageSettings:
    """One stage of training."""

    steps: NonNegativeInt = 0
    """Optimizer steps; a stage that the recipe trains needs one at least."""
    batch: PositiveInt = 6
    """Cases a step, over all devices."""
    micro_batches: PositiveInt = 1
    """Parts of a batch that a step takes one after the other, to need less memory; what
    a loss sums over its batch, it then sums over a part."""
    validate_every: PositiveInt = 167
    """Steps between validations on held-out cases, each with a checkpoint."""
    patience_epochs: NonNegativeInt = 0
    """Stop when the training Dice has stayed the same for this many epochs; 0: never.
    The paper's rule is 2."""
    patience_tolerance: NonNegativeFloat = 0.001
    """Change of the training Dice that still counts as the same."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """How the parameters move."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    """How the cases are varied."""


@dataclass(frozen=True)
class SystemSettings:
    """What turns a scan into an infarct map, whatever it was trained with: all that the
    chain is compiled for. Two recipes of one system share its programs.

    On the command line, and wherever a field is named, the system's fields stand beside
    the recipe's own: `--segment-net.widths`, not `--system.segment-net.widths`.
    """

    precision: Precision = "float32"
    """What the networks compute in: float32 is float32 on every device, tensorfloat32
    its products in TF32 (GPU) or three of bfloat16 (TPU), bfloat16 also its maps.
    Parameters, sums, geometry, losses and optimizer stay in float32, and so do T's
    products of float32."""
    remat: Remat = "auto"
    """What the gradients of the U-Nets compute again to need less memory."""
    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    """Preparation of raw scans."""
    box: Box = None
    """Voxels (z y x) of X, about its centre, that D, F and the tissue net see (ours);
    None: all. In inference a head that is larger is seen whole."""
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    """Finding the mid-sagittal plane."""
    alignment_net: AlignmentNetSettings = field(default_factory=AlignmentNetSettings)
    """Network T."""
    asymmetry: AsymmetrySettings = field(default_factory=AsymmetrySettings)
    """P, Q and the synthetic volumes."""
    disentangle_net: UNetSettings = field(default_factory=UNetSettings)
    """Network D, where F sees what D leaves."""
    disentangle_input: Literal["aligned", "mirror_pair"] = "aligned"
    """What D sees: X alone (paper), or X and X' as two channels (ours)."""
    segment_input: SegmentInput = "salient"
    """What F sees: X + Q of D (ADN), that, X and X' as three channels (ours), X alone
    (plain networks, no D), or X and X' as two channels (Clerigues et al.; no D)."""
    zscore_in_brain: bool = False
    """Shift and scale what F sees to mean 0 and deviation 1 in the brain."""
    segment_net: SegmentNetSettings = field(default_factory=UNetSettings)
    """Network F."""

    @property
    def aligned_shape(self) -> tuple[int, int, int]:
        """Voxels (z y x) of X as the networks behind T see it."""
        return self.box or self.prepare.shape

    @property
    def disentangles(self) -> bool:
        """Whether D is part of the system."""
        return self.segment_input in {"salient", "salient_triple"}

    @property
    def segment_channels(self) -> int:
        """Channels of what F sees."""
        return {"salient_triple": 3, "mirror_pair": 2}.get(self.segment_input, 1)

    @property
    def disentangle_channels(self) -> int:
        """Channels of what D sees."""
        return 2 if self.disentangle_input == "mirror_pair" else 1


@dataclass(frozen=True)
class Recipe:
    """A system and how it is trained, chosen and used: the whole truth of a run."""

    name: str
    """Name of the recipe, for tables and reports."""
    seed: Seed = 0
    """Seed of everything random."""
    system: Annotated[SystemSettings, tyro.conf.arg(name="")] = field(
        default_factory=SystemSettings
    )
    """What is trained and then used."""
    tissue_source: Literal["maps", "network", "none"] = "maps"
    """Tissue for L_tissue: the prepared maps, the tissue net run on X, or none."""
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
    stream: StreamSettings = field(default_factory=StreamSettings)
    """The heads that are drawn for a training without a data set."""
    soft_labels: bool = False
    """Learn which fraction of a voxel is infarct (ours), not whether most of it is."""
    threshold: Threshold = 0.5
    """Probability from which a voxel is called infarct."""
    least_lesion_ml: NonNegativeFloat = 0.0
    """Predicted lesions of less are taken for chance: their probability is held below
    the threshold."""
    tta: TtaSettings = field(default_factory=TtaSettings)
    """Test-time augmentation: what inference averages over."""
    score_healthy: bool = False
    """Cases without infarct have a say, too, in which weights of D and F are the best
    (ours): each counts like a Dice, 1 if nothing or less than `least_lesion_ml` is
    predicted, else 0. Of drawn heads held out, as many are without infarct then as of
    those for training."""

    def with_fields(self, **changes: Any) -> "Recipe":
        """The recipe with some fields changed, its own or its system's.

        >>> mine = Recipe("mine").with_fields(seed=3, precision="bfloat16")
        >>> mine.seed, mine.system.precision
        (3, 'bfloat16')
        """
        of_system = {field.name for field in fields(self.system)} & changes.keys()
        system = replace(self.system, **{name: changes.pop(name) for name in of_system})
        return replace(self, **{"system": system, **changes})
