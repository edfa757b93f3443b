"""The 3D ResUNet alone on the aligned head: F without D, a row of the paper's Table 1.

Command:  adn train configs/resunet_aligned.py --data DIR --run RUN
Hardware: as `adn.py`.
Result:   paper, AISD: Dice 0.4850, HD95 39.87 mm. Not yet run by us at full size.
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe


def get_config() -> Recipe:
    """`adn` whose F sees X, all of it: no D, no L_D, no tissue maps, no box."""
    adn = load_recipe(Path(__file__).with_name("adn.py"))
    return adn.with_fields(
        name="resunet_aligned",
        tissue_source="none",
        joint_loss=replace(adn.joint_loss, regularisation=0.0, warm_start_steps=0),
        segment_input="aligned",
        box=None,
    )
