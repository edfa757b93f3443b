"""Recipes from Python files, as in configs/."""

import difflib
import importlib.util
import re
from dataclasses import fields
from pathlib import Path

from adn_jax.config import Recipe
from adn_jax.config.serialization import RENAMED, SYSTEM_FIELDS, sections
from adn_jax.config.validation import check_recipe
from adn_jax.errors import UserError, typed_line
from adn_jax.io.files import check_fetched
from adn_jax.io.paths import find_modules_here


def load_recipe(path: Path | str) -> Recipe:
    """The recipe that `get_config()` of the Python file `path` returns, checked.

    It may import modules from the folder of the call. Raises `UserError` if there is no
    such file, it fails, or the recipe is not valid.
    """
    path = Path(path)
    check_fetched(path)
    find_modules_here()
    if not path.is_file():
        raise UserError(f"the config {path} does not exist; see configs/ for examples.")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"the config {path} is no Python file; see configs/.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        recipe = module.get_config() if hasattr(module, "get_config") else None
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the config {path} failed with {typed_line(error)}{_field_hint(error)}; "
            "correct it there."
        ) from error
    if not isinstance(recipe, Recipe):
        raise UserError(
            f"the config {path} gives no recipe; it needs a function get_config() "
            "that returns an adn_jax.config.Recipe."
        )
    check_recipe(recipe)
    return recipe


def _field_hint(error: Exception) -> str:
    """The known field nearest to an unknown one that a config set."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return ""
    known = {
        each.name
        for _, settings in sections(Recipe(name=""))
        for each in fields(settings)
    }
    name = unknown[1]
    if name in RENAMED:
        return f" (it is now called {RENAMED[name]!r})"
    if name in SYSTEM_FIELDS:
        return f" (it is the system's: SystemSettings({name}=...), or with_fields)"
    near = difflib.get_close_matches(name, known, n=1)
    return f" (perhaps {near[0]!r} is meant)" if near else ""
