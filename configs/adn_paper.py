"""ADN as the paper describes it (Ni et al., MICCAI 2022).

Command:  adn train configs/adn_paper.py --data DIR --run RUN
Hardware: one GPU with 80 GB, or several (the batch of 6 is split over them).
Result:   paper, AISD, 52 test scans: Dice 0.5245, HD95 39.18 mm. Not yet run by us.

The paper gives no number of steps ("until convergence"); the upper bound here is the
authors' code's (T 12,500 steps, D and F 100 x 167), ended earlier by the paper's rule.
T has been seen to fail this way (docs/differences.md); `adn.py` is the remedy.
"""

from adn_jax.config import AugmentSettings, OptimizerSettings, Recipe, StageSettings

NO_AUGMENTATION = AugmentSettings(gamma=0.0, mirror=False, rotation_deg=0.0)
"""The paper states none."""


def get_config() -> Recipe:
    """The paper's reading of every point of docs/differences.md."""
    return Recipe(
        name="adn_paper",
        align=StageSettings(
            steps=12_500,
            batch=6,
            optimizer=OptimizerSettings(learning_rate=1e-5),
            augment=NO_AUGMENTATION,
        ),
        joint=StageSettings(
            steps=16_700,
            batch=6,
            patience_epochs=2,
            optimizer=OptimizerSettings(learning_rate=1e-3),
            augment=NO_AUGMENTATION,
        ),
    )
