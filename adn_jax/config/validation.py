"""What the settings may be, field by field and together; `UserError` otherwise."""

import difflib
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
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
    SegmentNetSettings,
    StageSettings,
    StreamSettings,
    SymmetryNetSettings,
    SystemSettings,
    TtaSettings,
    UNetSettings,
)
from adn_jax.config.schedules import parse_schedule
from adn_jax.config.serialization import (
    inner_prefix,
    kinds_of,
    present_recipe,
    sections,
    settings_from_json,
    value_from_json,
)
from adn_jax.config.stream import Range
from adn_jax.errors import UserError

Rule = tuple[str, str, Callable[[Any], bool]]

PRIOR: Rule = (
    "prior",
    "between 0 and 1, or None",
    lambda prior: prior is None or 0 < prior < 1,
)


def positive(name: str) -> Rule:
    """Rule for one number above 0."""
    return name, "above 0", lambda value: value > 0


WINDOWS: tuple[Rule, ...] = (
    positive("samples"),
    ("lesion_fraction", "between 0 and 1", lambda share: 0 <= share <= 1),
)


def _all_positive(name: str, what: str) -> Rule:
    """Rule for at least one number, all above 0."""
    return name, what, lambda values: len(values) > 0 and min(values) > 0


def _are_pathway_steps(steps: tuple[int, ...]) -> bool:
    """Whether pathways can share their middle: odd steps, the first 1."""
    return steps[:1] == (1,) and all(step > 0 and step % 2 == 1 for step in steps)


def _in_range(name: str, low: float | int, high: float | int) -> Rule:
    """Rule for numbers with `low` <= number < `high`."""
    return (
        name,
        f"at least {low:g} and below {high:g}",
        lambda value: all(low <= number < high for number in _as_tuple(value)),
    )


def _not_negative(name: str) -> Rule:
    """Rule for a number, or all of several, of at least 0."""
    return name, "at least 0", lambda value: min(_as_tuple(value)) >= 0


def weights(kind: type) -> tuple[Rule, ...]:
    """Rules for every number of the settings of a loss."""
    hints = get_type_hints(kind)
    return tuple(_not_negative(name) for name in hints if hints[name] in {int, float})


def _ranges(kind: type) -> tuple[Rule, ...]:
    """Rules for every pair of the settings: the lowest, then the highest."""
    hints = get_type_hints(kind)
    return tuple(
        (name, "a lowest and a highest value", lambda pair: pair[0] <= pair[1])
        for name in hints
        if hints[name] == Range
    )


def _chance(name: str) -> Rule:
    """Rule for a chance."""
    return name, "between 0 and 1", lambda value: 0 <= value <= 1


RULES: dict[type, tuple[Rule, ...]] = {
    Recipe: (
        ("threshold", "between 0 and 1", lambda value: 0 < value < 1),
        _in_range("seed", 0, 2**31),
    ),
    SystemSettings: (
        ("box", "three sizes above 0, or None", lambda box: not box or min(box) > 0),
    ),
    PrepareSettings: (
        _all_positive("shape", "three sizes above 0"),
        _all_positive("spacing_mm", "three sizes in mm above 0"),
        ("window_hu", "a lower and a higher HU", lambda window: window[0] < window[1]),
        _all_positive("infarct_labels", "label values above 0"),
    ),
    AlignmentNetSettings: (
        _all_positive("widths", "feature maps of at least one stage, all above 0"),
        _in_range("rotation_limit_deg", 0, 180.0001),
        _not_negative("translation_limit"),
    ),
    AsymmetrySettings: (_not_negative("rim_mm"),),
    AlignmentSettings: (
        _in_range("search_limit_deg", 0, 180.0001),
        positive("search_step_deg"),
        _not_negative("refine_steps"),
        positive("refine_rate"),
    ),
    TtaSettings: (
        _not_negative("copies"),
        _in_range("turn_deg", 0, 180.0001),
        _in_range("shift", 0, 1),
    ),
    AlignLossSettings: weights(AlignLossSettings),
    JointLossSettings: weights(JointLossSettings),
    UNetSettings: (
        _all_positive("widths", "feature maps of at least one level, all above 0"),
        positive("outputs"),
        positive("groups"),
        _in_range("dropout", 0, 1),
        PRIOR,
        _not_negative("in_plane_levels"),
        _not_negative("deep_supervision"),
    ),
    DeepMedicSettings: (
        _all_positive("widths", "feature maps of at least one layer, all above 0"),
        ("steps", "odd numbers, the first 1", _are_pathway_steps),
        _all_positive("joined_widths", "feature maps of at least one layer, above 0"),
        ("joined_kernels", "1 or 3", lambda sides: set(sides) <= {1, 3}),
        _in_range("dropout", 0, 1),
        PRIOR,
        *WINDOWS,
        ("side", "odd and above 0", lambda side: side > 0 and side % 2 == 1),
        ("tile", "odd and above 0", lambda side: side > 0 and side % 2 == 1),
    ),
    SymmetryNetSettings: (
        _all_positive("widths", "feature maps of at least one level, all above 0"),
        _not_negative("neighbours"),
        _all_positive("windows", "numbers of windows above 0"),
        PRIOR,
        *WINDOWS,
    ),
    StageSettings: (
        _not_negative("steps"),
        positive("batch"),
        positive("micro_batches"),
        positive("validate_every"),
        _not_negative("patience_epochs"),
        _not_negative("patience_tolerance"),
    ),
    OptimizerSettings: (
        positive("learning_rate"),
        _not_negative("weight_decay"),
        _in_range("betas", 0, 1),
        _not_negative("decay_power"),
        _in_range("momentum", 0, 1),
        _not_negative("l1"),
        _not_negative("l2"),
        ("halve_at", "shares from 0 to 1", lambda at: all(0 <= s <= 1 for s in at)),
        _in_range("ema_decay", 0, 1),
        ("clip_norm", "above 0, or None", lambda norm: norm is None or norm > 0),
    ),
    StreamSettings: (
        positive("validation_heads"),
        positive("epoch_heads"),
        _in_range("validation_seed", 0, 2**31),
        *(
            _chance(name)
            for name in (
                *("cut", "craniectomy", "lacunes", "cyst", "calcified", "other_side"),
                *("haemorrhage", "dense_vessel", "motion"),
            )
        ),
        (
            "infarcts",
            "chances of none, one, ... that add up to 1, at least two",
            lambda chances: (
                len(chances) > 1
                and min(chances) >= 0
                and math.isclose(sum(chances), 1.0, abs_tol=1e-3)
            ),
        ),
        ("infarcts", "above 0 for some infarct", lambda chances: sum(chances[1:]) > 0),
        _all_positive("infarct_quantiles_ml", "three volumes above 0"),
        _all_positive("scale", "a lowest and a highest size above 0"),
        *_ranges(StreamSettings),
        *(
            _not_negative(name)
            for name in (
                *("rotation_deg", "shift_mm", "stretch", "skew", "deformation_mm"),
                *("asymmetry_mm", "ventricle_asymmetry", "atrophy_asymmetry"),
                *("regional_hu", "motion_mm"),
            )
        ),
    ),
    AugmentSettings: (
        _in_range("gamma", 0, 1),
        _in_range("rotation_deg", 0, 180.0001),
        _not_negative("translation"),
        _in_range("zoom", 0, 1),
        _in_range("brightness", 0, 1),
        _in_range("noise", 0, 1),
    ),
}
"""Settings -> (field, rule in words, test)."""


def used_settings(recipe: Recipe) -> Recipe:
    """The recipe with the settings of parts that its system lacks at their defaults.

    Without T those of its training and of its network, but for the limits that tell
    whether heads turn in plane alone; without a tissue net and without D likewise.
    """
    system = recipe.system
    if not system.alignment.network:
        limits = AlignmentNetSettings(
            rotation_limit_deg=system.alignment_net.rotation_limit_deg,
            translation_limit=system.alignment_net.translation_limit,
        )
        recipe = recipe.with_fields(
            align_loss=AlignLossSettings(), align=StageSettings(), alignment_net=limits
        )
    if recipe.tissue_source != "network":
        recipe = replace(recipe, tissue_net=UNetSettings(), tissue=StageSettings())
    if not system.disentangles:
        recipe = recipe.with_fields(
            disentangle_net=UNetSettings(), asymmetry=AsymmetrySettings()
        )
    return recipe


def recipe_from_json(content: Any, where: str) -> Recipe:
    """The recipe in JSON values of this version or an older one, checked."""
    recipe = settings_from_json(Recipe, present_recipe(content), where)
    check_recipe(recipe)
    return recipe


def check_recipe(recipe: Recipe) -> None:
    """Raise `UserError`, naming field and rule, for a value that cannot work."""
    _check_types(recipe)
    for where, settings in sections(recipe):
        for name, rule, holds in RULES.get(type(settings), ()):
            value = getattr(settings, name)
            if not holds(value):
                raise UserError(f"{where}{name} is {value!r}; it has to be {rule}.")
    if recipe.tissue_net.outputs < 4:
        raise UserError(
            f"tissue_net.outputs is {recipe.tissue_net.outputs}; it has to be at least "
            "4: background, grey matter, white matter, CSF."
        )
    _check_system(recipe)
    _check_schedules(recipe.align_loss, "align_loss")
    _check_schedules(recipe.joint_loss, "joint_loss")
    loss = recipe.joint_loss
    charged = loss.regularisation and (loss.tissue or loss.tissue_one_way)
    if recipe.tissue_source == "none" and charged:
        raise UserError(
            "tissue_source is 'none', but L_tissue has a weight; set "
            "--joint-loss.tissue 0 and --joint-loss.tissue-one-way 0, or a source."
        )
    if recipe.align.augment.zoom > 0:
        raise UserError(
            f"align.augment.zoom is {recipe.align.augment.zoom}; it has to be 0, since "
            "the answer of the search, which T learns, follows rigid motions alone."
        )
    for name in ("align", "tissue"):
        patience = getattr(recipe, name).patience_epochs
        if patience > 0:
            raise UserError(
                f"{name}.patience_epochs is {patience}; it has to be 0, since only "
                "the joint stage has a training Dice that could settle."
            )


def _check_system(recipe: Recipe) -> None:
    """Raise `UserError` where the parts of the system do not go together."""
    system, net = recipe.system, recipe.system.segment_net
    _check_box(system)
    if not system.disentangles and recipe.joint_loss.regularisation:
        raise UserError(
            f"segment_input is {system.segment_input!r}, so there is no P that L_D "
            "could shape; set --joint-loss.regularisation 0."
        )
    _check_levels(system.disentangle_net, "disentangle_net")
    _check_levels(net, "segment_net")
    _check_levels(recipe.tissue_net, "tissue_net")
    if isinstance(net, DeepMedicSettings):
        _check_layers(net)
    sees_windows = not isinstance(net, UNetSettings)
    if sees_windows and recipe.joint_loss.extra:
        raise UserError(
            f"joint_loss.extra is given, but a {net.kind} trains on windows, of which "
            "terms of your own know nothing; leave them out."
        )
    if system.disentangles and sees_windows:
        raise UserError(
            f"segment_net is a {net.kind}, which trains on windows; D needs the whole "
            "head, so set segment_input to 'aligned' or 'mirror_pair'."
        )


def _check_box(system: SystemSettings) -> None:
    """Raise `UserError` unless the box lies in the grid, with its centre."""
    sizes = zip("zyx", system.box or (), system.prepare.shape, strict=False)
    for axis, size, of in sizes:
        if size > of or (of - size) % 2:
            raise UserError(
                f"box has {size} voxels along {axis}, prepare.shape {of}; the box has "
                "to have as many or fewer, by an even number, so that both have one "
                "centre."
            )


def _check_schedules(loss: AlignLossSettings | JointLossSettings, where: str) -> None:
    """Raise `UserError` for a schedule that cannot be read or is of no known term."""
    hints = get_type_hints(type(loss))
    names = [name for name in hints if hints[name] is float]
    names += [":".join(text.split(":")[:2]) for text in loss.extra]
    for text in loss.schedules:
        term = parse_schedule(text).term
        if term not in names:
            near = difflib.get_close_matches(term, names, n=1, cutoff=0.0)[0]
            raise UserError(
                f"{where}.schedules has {text!r}, but there is no term {term!r}; "
                f"perhaps {near!r} is meant (terms of your own: name them in "
                f"{where}.extra, too)."
            )
        if getattr(loss, term, 1) == 0:
            raise UserError(
                f"{where}.schedules has {text!r}, but the weight of {term} is 0, so "
                f"that there is nothing to change; set {where}.{term}, too."
            )


def _check_levels(settings: SegmentNetSettings, where: str) -> None:
    """Raise `UserError` where a U-Net's options need levels that it does not have."""
    if not isinstance(settings, UNetSettings):
        return
    if settings.deep_supervision and where != "segment_net":
        raise UserError(
            f"{where}.deep_supervision is {settings.deep_supervision}; it has to be 0, "
            "since only the output of segment_net is compared with the label level by "
            "level."
        )
    poolings = len(settings.widths) - 1
    most = {"in_plane_levels": poolings, "deep_supervision": max(poolings - 1, 0)}
    for name, limit in most.items():
        if getattr(settings, name) > limit:
            raise UserError(
                f"{where}.{name} is {getattr(settings, name)}; with "
                f"{len(settings.widths)} widths it has to be at most {limit}."
            )


def _check_layers(settings: DeepMedicSettings) -> None:
    """Raise `UserError` where DeepMedic's lists of layers do not go together."""
    joined = len(settings.joined_widths)
    wanted = {"joined_kernels": joined, "dropout": joined + 1}
    for name, count in wanted.items():
        if len(getattr(settings, name)) != count:
            raise UserError(
                f"segment_net.{name} has {len(getattr(settings, name))} values for "
                f"{joined} joined_widths; {count} are wanted."
            )
    last = {"residual": len(settings.widths), "joined_residual": joined}
    for name, layers in last.items():
        if not all(2 <= number <= layers for number in getattr(settings, name)):
            raise UserError(
                f"segment_net.{name} is {getattr(settings, name)}; numbers of layers "
                f"from 2 to {layers} are wanted."
            )
    unit = math.lcm(*settings.steps)
    if settings.tile % unit:
        nearest = unit * (settings.tile // unit // 2 * 2 + 1)
        raise UserError(
            f"segment_net.tile is {settings.tile}; tiles meet exactly where it is an "
            f"odd multiple of {unit}, so set it to {nearest}."
        )


def _check_types(settings: Any, where: str = "") -> None:
    """Raise `UserError` for a value of another type or choice than its field's.

    A Python config can hold anything. Lists are refused, since a recipe is hashed.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        name, value = where + field.name, getattr(settings, field.name)
        if is_dataclass(value) and type(value) in kinds_of(hints[field.name]):
            _check_types(value, inner_prefix(where, field.name))
            continue
        value_from_json(hints[field.name], value, name)
        numbers = [one for one in _as_tuple(value) if isinstance(one, float)]
        if isinstance(value, list) or not all(map(math.isfinite, numbers)):
            wanted = "a tuple" if isinstance(value, list) else "a finite number"
            raise UserError(f"{name} is {value!r}; {wanted} is wanted there.")


def _as_tuple(value: Any) -> tuple:
    """One value as a tuple of one; a tuple as it is."""
    return value if isinstance(value, tuple) else (value,)
