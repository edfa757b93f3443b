"""DeepMedic with the two pathways of its paper (Kamnitsas et al. 2017).

Command:  adn train configs/deepmedic_2017.py --data DIR --run RUN
Hardware: as `adn.py`.
Result:   not a row of Table 1; not yet run by us at full size.
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe


def get_config() -> Recipe:
    """`deepmedic` without the third pathway and the residual connections."""
    deepmedic = load_recipe(Path(__file__).with_name("deepmedic.py"))
    return deepmedic.with_fields(
        name="deepmedic_2017",
        segment_net=replace(
            deepmedic.system.segment_net,
            steps=(1, 3),
            residual=(),
            joined_widths=(150, 150),
            joined_kernels=(1, 1),
            joined_residual=(),
            side=9,
        ),
    )
