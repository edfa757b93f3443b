"""What each field of the settings may be, in words and as a test."""

from collections.abc import Callable
from typing import Any, get_type_hints

from adn_jax.config import (
    AlignLossSettings,
    AlignmentNetSettings,
    AlignmentSettings,
    AsymmetrySettings,
    AugmentSettings,
    DeepMedicSettings,
    JointLossSettings,
    OptimizerSettings,
    PrepareSettings,
    Recipe,
    StageSettings,
    SymmetryNetSettings,
    TtaSettings,
    UNetSettings,
)

Rule = tuple[str, str, Callable[[Any], bool]]


def positive(name: str) -> Rule:
    """Rule for one number above 0."""
    return name, "above 0", lambda value: value > 0


def not_negative(name: str) -> Rule:
    """Rule for a number, or all of several, of at least 0."""
    return name, "at least 0", lambda value: min(as_tuple(value)) >= 0


def all_positive(name: str, what: str) -> Rule:
    """Rule for at least one number, all above 0."""
    return name, what, lambda values: len(values) > 0 and min(values) > 0


def weights(kind: type) -> tuple[Rule, ...]:
    """Rules for every number of the settings of a loss."""
    hints = get_type_hints(kind)
    return tuple(not_negative(name) for name in hints if hints[name] in {int, float})


def in_range(name: str, low: float | int, high: float | int) -> Rule:
    """Rule for numbers with `low` <= number < `high`."""
    return (
        name,
        f"at least {low:g} and below {high:g}",
        lambda value: all(low <= number < high for number in as_tuple(value)),
    )


def as_tuple(value: Any) -> tuple:
    """One value as a tuple of one; a tuple as it is."""
    return value if isinstance(value, tuple) else (value,)


def are_pathway_steps(steps: tuple[int, ...]) -> bool:
    """Whether pathways can share their middle: odd steps, the first 1."""
    return steps[:1] == (1,) and all(step > 0 and step % 2 == 1 for step in steps)


PRIOR: Rule = (
    "prior",
    "between 0 and 1, or None",
    lambda prior: prior is None or 0 < prior < 1,
)

WINDOWS: tuple[Rule, ...] = (
    positive("samples"),
    ("lesion_fraction", "between 0 and 1", lambda share: 0 <= share <= 1),
)

RULES: dict[type, tuple[Rule, ...]] = {
    Recipe: (
        ("threshold", "between 0 and 1", lambda value: 0 < value < 1),
        in_range("seed", 0, 2**31),
    ),
    PrepareSettings: (
        all_positive("shape", "three sizes above 0"),
        all_positive("spacing_mm", "three sizes in mm above 0"),
        ("window_hu", "a lower and a higher HU", lambda window: window[0] < window[1]),
        all_positive("infarct_labels", "label values above 0"),
    ),
    AlignmentNetSettings: (
        all_positive("widths", "feature maps of at least one stage, all above 0"),
        in_range("rotation_limit_deg", 0, 180.0001),
        not_negative("translation_limit"),
    ),
    AsymmetrySettings: (not_negative("rim_mm"),),
    AlignmentSettings: (
        in_range("search_limit_deg", 0, 180.0001),
        positive("search_step_deg"),
        not_negative("refine_steps"),
        positive("refine_rate"),
    ),
    TtaSettings: (
        not_negative("copies"),
        in_range("turn_deg", 0, 180.0001),
        in_range("shift", 0, 1),
    ),
    AlignLossSettings: weights(AlignLossSettings),
    JointLossSettings: weights(JointLossSettings),
    UNetSettings: (
        all_positive("widths", "feature maps of at least one level, all above 0"),
        positive("outputs"),
        positive("groups"),
        in_range("dropout", 0, 1),
        PRIOR,
        not_negative("in_plane_levels"),
        not_negative("deep_supervision"),
    ),
    DeepMedicSettings: (
        all_positive("widths", "feature maps of at least one layer, all above 0"),
        ("steps", "odd numbers, the first 1", are_pathway_steps),
        all_positive("joined_widths", "feature maps of at least one layer, above 0"),
        ("joined_kernels", "1 or 3", lambda sides: set(sides) <= {1, 3}),
        in_range("dropout", 0, 1),
        PRIOR,
        *WINDOWS,
        ("side", "odd and above 0", lambda side: side > 0 and side % 2 == 1),
        ("tile", "odd and above 0", lambda side: side > 0 and side % 2 == 1),
    ),
    SymmetryNetSettings: (
        all_positive("widths", "feature maps of at least one level, all above 0"),
        not_negative("neighbours"),
        all_positive("windows", "numbers of windows above 0"),
        PRIOR,
        *WINDOWS,
    ),
    StageSettings: (
        not_negative("steps"),
        positive("batch"),
        positive("micro_batches"),
        positive("validate_every"),
        not_negative("patience_epochs"),
        not_negative("patience_tolerance"),
    ),
    OptimizerSettings: (
        positive("learning_rate"),
        not_negative("weight_decay"),
        in_range("betas", 0, 1),
        not_negative("decay_power"),
        in_range("momentum", 0, 1),
        not_negative("l1"),
        not_negative("l2"),
        ("halve_at", "shares from 0 to 1", lambda at: all(0 <= s <= 1 for s in at)),
        in_range("ema_decay", 0, 1),
        ("clip_norm", "above 0, or None", lambda norm: norm is None or norm > 0),
    ),
    AugmentSettings: (
        in_range("gamma", 0, 1),
        in_range("rotation_deg", 0, 180.0001),
        not_negative("translation"),
        in_range("zoom", 0, 1),
        in_range("brightness", 0, 1),
        in_range("noise", 0, 1),
    ),
}
"""Settings -> (field, rule in words, test)."""
