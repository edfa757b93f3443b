"""Recipes as JSON and back, the fields in which two differ, and impossible values."""

import difflib
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from adn_jax.config import (
    AlignLossSettings,
    AlignmentNetSettings,
    AsymmetrySettings,
    DeepMedicSettings,
    JointLossSettings,
    Recipe,
    SegmentNetSettings,
    StageSettings,
    UNetSettings,
)
from adn_jax.config_names import RENAMED, inner_prefix, present_recipe
from adn_jax.config_rules import RULES, as_tuple
from adn_jax.errors import UserError

Settings = TypeVar("Settings")


def settings_to_json(settings: Any) -> Any:
    """Settings as JSON values: dataclasses become dicts, tuples lists."""
    if is_dataclass(settings):
        return {
            field.name: settings_to_json(getattr(settings, field.name))
            for field in fields(settings)
        }
    if isinstance(settings, tuple):
        return [settings_to_json(value) for value in settings]
    return settings


def settings_from_json(kind: type[Settings], content: Any, where: str) -> Settings:
    """Build the dataclass `kind` from JSON values; absent fields take their default.

    `where` names the place in messages. Raises `UserError` for an unknown field, with
    the nearest known one, and for a value of the wrong type.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where} is {content!r}; a table of settings is wanted there.")
    hints = get_type_hints(kind)
    for name in content:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1, cutoff=0.0)[0]
            raise UserError(
                f"{where} has an unknown field {name!r}; perhaps {near!r} is meant."
            )
    values = {
        name: value_from_json(hints[name], value, f"{where}.{name}")
        for name, value in content.items()
    }
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"{where} is not complete ({error}); add the field.") from error


def value_from_json(hint: Any, value: Any, where: str) -> Any:
    """One JSON value as the type `hint` of a settings field."""
    if is_dataclass(hint):
        return settings_from_json(hint, value, where)
    kind, choices = get_origin(hint), get_args(hint)
    if kind in {Union, types.UnionType}:
        if value is None and types.NoneType in choices:
            return None
        return value_from_json(chosen_kind(choices, value, where), value, where)
    if kind is Literal and value in choices:
        return value
    if kind is tuple and isinstance(value, (list, tuple)):
        any_length = choices[-1] is Ellipsis
        hints = [choices[0]] * len(value) if any_length else choices
        if len(hints) == len(value):
            return tuple(
                value_from_json(hint, item, f"{where}[{index}]")
                for index, (hint, item) in enumerate(zip(hints, value, strict=True))
            )
    if hint is float and type(value) in {int, float}:
        return float(value)
    if hint in {int, bool, str} and type(value) is hint:
        return value
    raise UserError(f"{where} is {value!r}; {in_words(hint)} is wanted there.")


def chosen_kind(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """Which of several types is meant: the only one beside None, or, of dataclasses,
    the one whose field `kind` can have the value's."""
    choices = tuple(each for each in choices if each is not types.NoneType)
    if len(choices) == 1:
        return choices[0]
    by_kind = {
        name: choice
        for choice in choices
        for name in get_args(get_type_hints(choice)["kind"])
    }
    named = value.get("kind") if isinstance(value, Mapping) else None
    if named not in by_kind:
        raise UserError(
            f"{where} is of kind {named!r}; one of {', '.join(map(repr, by_kind))} is "
            "wanted there."
        )
    return by_kind[named]


def in_words(hint: Any) -> str:
    """A type of a settings field as a user reads it."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def differing_fields(one: Any, other: Any, prefix: str = "") -> Iterator[str]:
    """Lines `field: value -> other value` for every field in which settings differ."""
    for field in fields(one):
        name = prefix + field.name
        here, there = getattr(one, field.name), getattr(other, field.name)
        if is_dataclass(here) and type(here) is type(there):
            yield from differing_fields(here, there, inner_prefix(prefix, field.name))
        elif here != there:
            yield f"{name} {here!r} -> {there!r}"


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
    check_types(recipe)
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
    check_system(recipe)
    check_schedules(recipe.align_loss, "align_loss")
    check_schedules(recipe.joint_loss, "joint_loss")
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


def check_system(recipe: Recipe) -> None:
    """Raise `UserError` where the parts of the system do not go together."""
    system, net = recipe.system, recipe.system.segment_net
    if not system.disentangles and recipe.joint_loss.regularisation:
        raise UserError(
            f"segment_input is {system.segment_input!r}, so there is no P that L_D "
            "could shape; set --joint-loss.regularisation 0."
        )
    check_levels(system.disentangle_net, "disentangle_net")
    check_levels(net, "segment_net")
    check_levels(recipe.tissue_net, "tissue_net")
    if isinstance(net, DeepMedicSettings):
        check_layers(net)
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


@dataclass(frozen=True)
class Schedule:
    """How the weight of a term changes: linearly, from step to step."""

    term: str
    from_step: int
    to_step: int
    from_factor: float
    to_factor: float


def check_schedules(loss: AlignLossSettings | JointLossSettings, where: str) -> None:
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


def parse_schedule(text: str) -> Schedule:
    """The schedule `term:FROM:TO` (factors 0 and 1) or `term:FROM:TO:A:B`.

    A term of one's own has a colon in its name, `module:function`. Raises `UserError`
    for any other text.
    """
    parts = text.split(":")
    count = len(parts)
    while count and is_number(parts[count - 1]):
        count -= 1
    term, numbers = ":".join(parts[:count]), parts[count:]
    steps, factors = numbers[:2], numbers[2:] or ["0", "1"]
    known = term and len(steps) == len(factors) == 2 and all(map(str.isdigit, steps))
    if not known or int(steps[0]) >= int(steps[1]) or min(map(float, factors)) < 0:
        raise UserError(
            f"the schedule {text!r} has another form than term:FROM:TO or "
            "term:FROM:TO:A:B with whole steps FROM < TO and factors A and B of at "
            "least 0; write for example tissue:0:200 or regularisation:100:300:1:0."
        )
    term = RENAMED.get(term, term)
    return Schedule(term, *map(int, steps), *map(float, factors))


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def check_levels(settings: SegmentNetSettings, where: str) -> None:
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


def check_layers(settings: DeepMedicSettings) -> None:
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


def check_types(settings: Any, where: str = "") -> None:
    """Raise `UserError` for a value of another type or choice than its field's.

    A Python config can hold anything. Lists are refused, since a recipe is hashed.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        name, value = where + field.name, getattr(settings, field.name)
        if is_dataclass(value) and type(value) in kinds_of(hints[field.name]):
            check_types(value, inner_prefix(where, field.name))
            continue
        value_from_json(hints[field.name], value, name)
        numbers = [one for one in as_tuple(value) if isinstance(one, float)]
        if isinstance(value, list) or not all(map(math.isfinite, numbers)):
            wanted = "a tuple" if isinstance(value, list) else "a finite number"
            raise UserError(f"{name} is {value!r}; {wanted} is wanted there.")


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types of a field: those of a union, else the one."""
    return get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)


def sections(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dataclass and all those inside it, each with its dotted prefix."""
    yield prefix, settings
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            yield from sections(value, inner_prefix(prefix, field.name))
