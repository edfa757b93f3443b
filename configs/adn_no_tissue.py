"""`adn` without L_tissue: the ablation in the last rows of the paper's Table 1.

Command:  adn train configs/adn_no_tissue.py --data DIR --run RUN
Hardware: as `adn.py`.
Result:   paper, AISD: Dice 0.5090, HD95 39.66 mm. Not yet run by us at full size.
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe


def get_config() -> Recipe:
    """`adn` with the weight of L_tissue at 0, and no tissue maps wanted."""
    adn = load_recipe(Path(__file__).with_name("adn.py"))
    return replace(
        adn,
        name="adn_no_tissue",
        tissue_source="none",
        joint_loss=replace(adn.joint_loss, tissue=0.0),
    )
