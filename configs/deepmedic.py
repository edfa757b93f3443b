"""DeepMedic (Kamnitsas et al. 2017) as its repository ships it, a row of Table 1.

Command:  adn train configs/deepmedic.py --data DIR --run RUN
Hardware: as `adn.py`.
Result:   paper, AISD: Dice 0.4412, HD95 58.20 mm. Not yet run by us at full size.

Three pathways, 4 of 7 patches around lesion, RMSProp, cross-entropy; 7 patches of 6
cases an update make 700,000 in all, as many as the shipped configuration draws.
Augmentation is that of the other rows; there is no CRF.
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.config import DeepMedicSettings, OptimizerSettings, Recipe
from adn_jax.config.recipe_file import load_recipe


def get_config() -> Recipe:
    """`resunet` with DeepMedic as F, trained its way."""
    resunet = load_recipe(Path(__file__).with_name("resunet.py"))
    return resunet.with_fields(
        name="deepmedic",
        joint_loss=replace(resunet.joint_loss, generalised_dice=0.0),
        joint=replace(resunet.joint, optimizer=OptimizerSettings(kind="rmsprop")),
        zscore_in_brain=True,
        segment_net=DeepMedicSettings(samples=7),
    )
