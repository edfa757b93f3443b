"""What the fields of a recipe are called: to users, and in older runs and commands."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from adn_jax.config import SystemSettings

RENAMED = {
    "average": "ema_decay",
    "averaging": "tta",
    "flat_levels": "in_plane_levels",
    "infarct": "pathology_supervision",
    "lesion_share": "lesion_fraction",
    "partial_labels": "soft_labels",
    "poses": "copies",
    "recompute": "remat",
    "standardise": "zscore_in_brain",
    "view_net": "alignment_net",
    "view_regression": "pose_regression",
    "watch_every": "gradient_norms_every",
}
"""Former name of a field or section -> its present name."""

SYSTEM_FIELDS = frozenset(field.name for field in fields(SystemSettings))


def inner_prefix(prefix: str, section: str) -> str:
    """What users write before the fields of a section: nothing for those of `system`,
    which are named as if they were the recipe's own."""
    return prefix if section == "system" else f"{prefix}{section}."


def present_name(name: str) -> str:
    """The dotted name of a field as it is spelled now."""
    return ".".join(RENAMED.get(part, part) for part in name.split("."))


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
