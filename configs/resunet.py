"""The 3D ResUNet on the head as it lies, a row of the paper's Table 1.

Command:  adn train configs/resunet.py --data DIR --run RUN
Hardware: as `adn.py`.
Result:   paper, AISD: Dice 0.4763, HD95 42.55 mm. Not yet run by us at full size.
"""

from pathlib import Path

from adn_jax.config import AlignmentSettings, Recipe
from adn_jax.config.recipe_file import load_recipe


def get_config() -> Recipe:
    """`resunet_aligned` without T, search and refinement."""
    resunet_aligned = load_recipe(Path(__file__).with_name("resunet_aligned.py"))
    return resunet_aligned.with_fields(
        name="resunet", alignment=AlignmentSettings(network=False)
    )
