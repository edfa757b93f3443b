"""The plain 3D U-Net (Cicek et al. 2016), a row of the paper's Table 1.

Command:  adn train configs/unet.py --data DIR --run RUN
Hardware: as `adn.py`.
Result:   paper, AISD: Dice 0.4281, HD95 42.18 mm. Not yet run by us at full size.

The paper names no width; 32 maps (4.1 million parameters) are as many as the ResUNet's,
`--segment-net.widths 64 128 256 512` is the public implementation's default (16.3).
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe


def get_config() -> Recipe:
    """`resunet` with the plain U-Net's blocks."""
    resunet = load_recipe(Path(__file__).with_name("resunet.py"))
    return resunet.with_fields(
        name="unet", segment_net=replace(resunet.system.segment_net, kind="unet")
    )
