"""SEAN (Liang et al. 2021) on the aligned head, a row of the paper's Table 1.

Command:  adn train configs/sean.py --data DIR --run RUN
Hardware: as `adn.py`.
Result:   paper, AISD: Dice 0.5047, HD95 40.07 mm. Not yet run by us at full size.

Attention and slices as in docs/baselines.md; T, loss and augmentation are those of the
other rows.
"""

from pathlib import Path

from adn_jax.config import Recipe, SymmetryNetSettings
from adn_jax.config.recipe_file import load_recipe


def get_config() -> Recipe:
    """`resunet_aligned` with SEAN as F."""
    resunet_aligned = load_recipe(Path(__file__).with_name("resunet_aligned.py"))
    return resunet_aligned.with_fields(name="sean", segment_net=SymmetryNetSettings())
