"""Single fields of a recipe by name: set from text, and given to another command."""

import difflib
import re
import types
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any, Union, get_args, get_origin, get_type_hints

from adn_jax.config import Recipe
from adn_jax.config.serialization import (
    present_name,
    sections,
    tell_renamed,
    value_from_json,
)
from adn_jax.config.validation import check_recipe
from adn_jax.errors import UserError

OWN = {"name": "it names the system", "seed": "set it by --seeds"}
"""Fields that a comparison sets itself."""


def set_fields(recipe: Recipe, texts: dict[str, str]) -> Recipe:
    """The recipe with fields set, `{"joint.steps": "100"}`, and checked.

    `-` stands for `_` in names; the parts of a tuple are separated by spaces.

    Raises:
        UserError: no such field, with the nearest name, or a value that it cannot have.
    """
    for name, text in texts.items():
        recipe = _set_field(recipe, field_name(recipe, name), text)
    check_recipe(recipe)
    return recipe


def read_pairs(option_name: str, texts: Iterable[str]) -> dict[str, str]:
    """`{"joint.steps": "100"}` from `joint.steps=100`; `UserError` without `=`."""
    pairs = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise UserError(
                f"{option_name} is {text!r}; a field and its value are wanted, as "
                "joint.steps=100."
            )
        spelled = _spelled(name)
        if (now := present_name(spelled)) != spelled:
            tell_renamed(name.strip(), now)
        if now in pairs:
            raise UserError(f"{option_name} has {now!r} twice; give it once.")
        pairs[now] = value
    return pairs


def _spelled(name: str) -> str:
    """A name from the command line as fields are spelled."""
    return name.strip().replace("-", "_")


def field_name(recipe: Recipe, name: str) -> str:
    """The full name of a field as the recipe spells it."""
    spelled = _spelled(name)
    known = dict(leaves(recipe))
    if spelled in OWN:
        raise UserError(f"the field {spelled!r} cannot be chosen here: {OWN[spelled]}.")
    if spelled not in known:
        near = difflib.get_close_matches(spelled, known, n=1, cutoff=0.0)[0]
        raise UserError(
            f"the recipe {recipe.name!r} has no field {name!r}; perhaps {near!r} is "
            "meant."
        )
    return spelled


def leaves(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Every field that holds no section, with its dotted name and its value."""
    for prefix, settings in sections(recipe):
        for field in fields(settings):
            value = getattr(settings, field.name)
            if not is_dataclass(value):
                yield prefix + field.name, value


def _set_field(settings: Any, name: str, text: str, where: str = "") -> Any:
    """Settings with the field of that dotted name set from text."""
    first, _, rest = name.partition(".")
    if not hasattr(settings, first):  # the system's, without its prefix
        return replace(settings, system=_set_field(settings.system, name, text, where))
    if rest:
        inner = _set_field(getattr(settings, first), rest, text, f"{where}{first}.")
        return replace(settings, **{first: inner})
    hint = get_type_hints(type(settings))[first]
    value = value_from_json(hint, read_text(hint, text.strip()), where + first)
    return replace(settings, **{first: value})


def read_text(hint: Any, text: str) -> Any:
    """Text as a value for the type of a field; text as it is where it has none."""
    kind, choices = get_origin(hint), get_args(hint)
    if kind in {Union, types.UnionType}:
        if text.lower() == "none":
            return None
        return read_text(next(c for c in choices if c is not types.NoneType), text)
    if kind is tuple:
        return tuple(read_text(choices[0], part) for part in text.split())
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if hint in {int, float}:
        with suppress(ValueError):
            return hint(text)
    return text


def options_between(base: Recipe, recipe: Recipe) -> list[str]:
    """The options that make `base` the other recipe on the command line of `train`."""
    changed = changed_fields(base, recipe)
    return [part for name, value in changed.items() for part in option(name, value)]


def changed_fields(base: Recipe, recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that `base` has otherwise, by name."""
    before = dict(leaves(base))
    return {name: value for name, value in leaves(recipe) if before.get(name) != value}


def pair(name: str, value: Any) -> str:
    """A field and its value as `set_fields` reads them: joint.steps=100."""
    values = value if isinstance(value, tuple) else (value,)
    return f"{name}={' '.join(str(each) for each in values)}"


def as_pairs(sentence: str, recipe: Recipe) -> str:
    """A sentence of `train` whose options are written as --set field=value."""
    known = dict(leaves(recipe))

    def written(option: re.Match) -> str:
        negative, name, value = option.groups()
        field = name.replace("-", "_")
        if field not in known:
            return option[0]
        if isinstance(known[field], bool):
            rest = f" {value}" if value else ""
            return f"--set {field}={'false' if negative else 'true'}{rest}"
        return f"--set {field}={value or 'VALUE'}"

    pattern = r"--(no-)?([a-z][a-z0-9.-]*[a-z0-9])(?: ([\w.+-]*\w))?"
    return re.sub(pattern, written, sentence).replace("set --set", "give --set")


def option(name: str, value: Any) -> list[str]:
    """A field and its value as parts of a command line."""
    section, _, last = name.replace("_", "-").rpartition(".")
    prefix = f"--{section}." if section else "--"
    if isinstance(value, bool):
        return [f"{prefix}{'' if value else 'no-'}{last}"]
    values = value if isinstance(value, tuple) else (value,)
    return [prefix + last, *(str(each) for each in values)]
