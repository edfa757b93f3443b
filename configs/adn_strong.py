"""What published plain U-Nets gain their numbers by, on ADN's aligned head.

Command:  adn train configs/adn_strong.py --data DIR --run RUN
Hardware: as `adn.py`.
Result:   not yet run at full size; on phantoms see docs/results.md.

F sees X and X' as two channels, without D: F of `adn`, trained briefly, found hardly
anything outside P. F has five levels, the first pooling leaves thick slices alone, and
two decoder levels learn beside the last. The box is that of `adn`. Stronger
augmentation, averaged weights. What each part is worth, and why there is no test-time
augmentation: docs/results.md.
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe


def get_config() -> Recipe:
    """`clerigues` with a stronger F, and more for it to learn from."""
    clerigues = load_recipe(Path(__file__).with_name("clerigues.py"))
    return clerigues.with_fields(
        name="adn_strong",
        joint=replace(
            clerigues.joint,
            optimizer=replace(clerigues.joint.optimizer, ema_decay=0.999),
            augment=replace(
                clerigues.joint.augment,
                rotation_deg=15.0,
                translation=0.05,
                zoom=0.15,
                brightness=0.05,
                noise=0.03,
            ),
        ),
        box=(32, 160, 128),
        segment_net=replace(
            clerigues.system.segment_net,
            widths=(32, 64, 128, 256, 320),
            in_plane_levels=1,
            deep_supervision=2,
        ),
    )
