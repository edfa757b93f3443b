"""What the settings may be, field by field and together; `UserError` otherwise."""

import difflib
import math
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from adn_jax.config import (
    AlignLossSettings,
    DeepMedicSettings,
    JointLossSettings,
    PatchNetSettings,
    Recipe,
    SegmentNetSettings,
    SystemSettings,
    UNetSettings,
)
from adn_jax.config.bounds import as_tuple, bounds_of
from adn_jax.config.schedules import parse_schedule
from adn_jax.config.serialization import (
    inner_prefix,
    kinds_of,
    present_recipe,
    sections,
    settings_from_json,
    value_from_json,
)
from adn_jax.errors import UserError


def recipe_from_json(content: Any, where: str) -> Recipe:
    """The recipe in JSON values of this version or an older one, checked."""
    recipe = settings_from_json(Recipe, present_recipe(content), where)
    check_recipe(recipe)
    return recipe


def check_recipe(recipe: Recipe) -> None:
    """Raise `UserError`, naming field and rule, for a value that cannot work."""
    _check_types(recipe)
    for where, settings in sections(recipe):
        for name, bound in bounds_of(type(settings)):
            value = getattr(settings, name)
            if not bound.holds(value):
                raise UserError(
                    f"{where}{name} is {value!r}; it has to be {bound.words}."
                )
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
    """Raise `UserError` if the parts of the system do not go together."""
    system, net = recipe.system, recipe.system.segment_net
    _check_box(system)
    if not system.disentangles and recipe.joint_loss.regularisation:
        raise UserError(
            f"segment_input is {system.segment_input!r}, so there is no P that L_D "
            "could shape; set --joint-loss.regularisation 0."
        )
    for name, each in (
        ("disentangle_net", system.disentangle_net),
        ("segment_net", net),
    ):
        _check_levels(each, name)
        if isinstance(each, UNetSettings) and each.outputs != 1:
            raise UserError(
                f"{name}.outputs is {each.outputs}; it has to be 1, the probability of "
                "infarct."
            )
    _check_levels(recipe.tissue_net, "tissue_net")
    if isinstance(net, DeepMedicSettings):
        _check_layers(net)
    sees_patches = isinstance(net, PatchNetSettings)
    if sees_patches and recipe.joint_loss.extra:
        raise UserError(
            f"joint_loss.extra is given, but a {net.kind} trains on patches, of which "
            "terms of your own know nothing; leave them out."
        )
    if system.disentangles and sees_patches:
        raise UserError(
            f"segment_net is a {net.kind}, which trains on patches; D needs the whole "
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
    """Raise `UserError` if a U-Net's options need levels that it does not have."""
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
    """Raise `UserError` if DeepMedic's lists of layers do not go together."""
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
        numbers = [one for one in as_tuple(value) if isinstance(one, float)]
        if isinstance(value, list) or not all(map(math.isfinite, numbers)):
            wanted = "a tuple" if isinstance(value, list) else "a finite number"
            raise UserError(f"{name} is {value!r}; {wanted} is wanted there.")
