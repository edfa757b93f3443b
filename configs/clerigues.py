"""The 3D ResUNet on the aligned head and its mirror image as two channels.

Command:  adn train configs/clerigues.py --data DIR --run RUN
Hardware: as `adn.py`.
Result:   paper, AISD: Dice 0.5051, HD95 43.17 mm. Not yet run by us at full size.

The idea of Clerigues et al. (2020) in the form of the paper's Table 1.
"""

from pathlib import Path

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe


def get_config() -> Recipe:
    """`resunet_aligned` that also sees the mirror image."""
    resunet_aligned = load_recipe(Path(__file__).with_name("resunet_aligned.py"))
    return resunet_aligned.with_fields(name="clerigues", segment_input="mirror_pair")
