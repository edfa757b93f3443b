"""`clerigues` with one part of `adn_strong` each, to see what the part is worth.

Run in this repository's folder; what they gave is in docs/results.md:

    adn table DIR OUT --size demo --set joint.steps=600 --seeds 0 1 \\
        --reference clerigues \\
        --recipes configs/clerigues.py examples/strong_parts/[a-z]*.py
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe

CONFIGS = Path(__file__).parents[2] / "configs"


def clerigues_with(
    name: str,
    net: Sequence[str] = (),
    joint: Sequence[str] = (),
    optimizer: Sequence[str] = (),
) -> Recipe:
    """`clerigues` with fields of `adn_strong`: F's, stage joint's, its optimizer's."""
    plain = load_recipe(CONFIGS / "clerigues.py")
    strong = load_recipe(CONFIGS / "adn_strong.py")
    stage = taking(plain.joint, strong.joint, joint)
    return plain.with_fields(
        name=f"clerigues_{name}",
        segment_net=taking(plain.system.segment_net, strong.system.segment_net, net),
        joint=replace(
            stage,
            optimizer=taking(stage.optimizer, strong.joint.optimizer, optimizer),
        ),
    )


def taking(settings: Any, source: Any, names: Sequence[str]) -> Any:
    """The settings with the named fields of `source`."""
    return replace(settings, **{name: getattr(source, name) for name in names})
