"""Recipes as JSON and back, also of older versions; fields in which two differ."""

import difflib
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from adn_jax.config import SystemSettings
from adn_jax.errors import UserError

RENAMED = {
    "average": "ema_decay",
    "averaging": "tta",
    "flat_levels": "in_plane_levels",
    "infarct": "pathology_supervision",
    "lesion_share": "lesion_fraction",
    "partial_labels": "soft_labels",
    "poses": "copies",
    "recompute": "remat",
    "space": "spatial_shards",
    "standardise": "zscore_in_brain",
    "view_net": "alignment_net",
    "view_regression": "pose_regression",
    "watch_every": "gradient_norms_every",
}
"""Former name of a field, a section or an option -> its present name."""

SYSTEM_FIELDS = frozenset(field.name for field in fields(SystemSettings))

Settings = TypeVar("Settings")


def inner_prefix(prefix: str, section: str) -> str:
    """What users write before the fields of a section: nothing for those of `system`,
    which are named as if they were the recipe's own."""
    return prefix if section == "system" else f"{prefix}{section}."


def present_name(name: str) -> str:
    """The dotted name of a field as it is spelled now."""
    return ".".join(RENAMED.get(part, part) for part in name.split("."))


def tell_renamed(former: str, now: str) -> None:
    """Tell the user what a name that was given is called now."""
    print(f"adn: {former} is now called {now}.", file=sys.stderr)


def present_option(option: str) -> str:
    """An option of the command line as it is spelled now: `--remat` for
    `--recompute`, `--no-zscore-in-brain` for `--no-standardise`."""
    parts = []
    for part in option.removeprefix("--").split("."):
        negative = "no-" if part.startswith("no-") else ""
        name = part.removeprefix("no-").replace("-", "_")
        known = name in RENAMED
        parts.append(negative + RENAMED[name].replace("_", "-") if known else part)
    return "--" + ".".join(parts)


def present_recipe(content: Any) -> Any:
    """The JSON values of a recipe as it is written now, from those of any version: the
    system's fields once stood among the recipe's own."""
    content = _present_keys(content)
    if not isinstance(content, Mapping) or "system" in content:
        return content
    system = {name: content[name] for name in content if name in SYSTEM_FIELDS}
    rest = {name: content[name] for name in content if name not in SYSTEM_FIELDS}
    return {**rest, "system": system}


def _present_keys(content: Any) -> Any:
    if not isinstance(content, Mapping):
        return content
    return {
        RENAMED.get(key, key): _present_keys(value) for key, value in content.items()
    }


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
        return value_from_json(_chosen_kind(choices, value, where), value, where)
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
    if kind is Mapping and isinstance(value, Mapping):
        return {
            name: value_from_json(choices[1], item, f"{where}.{name}")
            for name, item in value.items()
        }
    if hint is float and type(value) in {int, float}:
        return float(value)
    if hint in {int, bool, str} and type(value) is hint:
        return value
    raise UserError(f"{where} is {value!r}; {in_words(hint)} is wanted there.")


def _chosen_kind(choices: tuple[Any, ...], value: Any, where: str) -> Any:
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
