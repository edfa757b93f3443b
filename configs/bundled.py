"""The model in the box: `adn_parts`, small enough for two CPU cores, on drawn heads.

Command:  adn train configs/bundled.py --run RUN --pretrained THIRD
Hardware: 2 CPU cores, one to two hours, and five for THIRD.
Result:   adn_jax/bundled/MODEL_CARD.md, which says what THIRD is.

It sees no data set: heads are drawn while it trains, none twice (docs/data.md), wider
than by default: infarcts are mottled and fresh ones begin in grey matter, and a slope
of CT numbers goes across the head. A third are without infarct, more than by default:
what it marks on healthy heads counts most, cross-entropies of weight 200 teach that
(docs/loss-variants.md), and they have a say in which weights are the best. From fresh
weights it is slow to find any infarct, so it begins with a model that does. Of what it
marks below 1 mL one in four was an infarct, so that is left out.
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.sizes import demo_size


def get_config() -> Recipe:
    """`adn_parts` at the size of the demo, trained longer."""
    small = demo_size(load_recipe(Path(__file__).with_name("adn_parts.py")))
    return replace(
        small,
        name="bundled",
        stream=replace(
            small.stream,
            infarcts=(0.35, 0.4, 0.15, 0.1),
            infarct_white=(0.4, 1.0),
            infarct_mottle=(0.0, 0.5),
            shading_hu=1.2,
            validation_heads=144,
        ),
        score_healthy=True,
        least_lesion_ml=1.0,
        threshold=0.4,
        align=replace(small.align, steps=120, validate_every=60),
        joint=replace(
            small.joint,
            steps=4_500,
            validate_every=500,
            optimizer=replace(
                small.joint.optimizer, learning_rate=7e-4, ema_decay=0.998
            ),
        ),
        joint_loss=replace(
            small.joint_loss, cross_entropy=200.0, pathology_cross_entropy=200.0
        ),
    )
