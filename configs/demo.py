"""`adn`, small enough for two CPU cores: the recipe of `make demo`.

Command:  make demo
Hardware: 2 CPU cores.
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.cli.arguments import load_recipe
from adn_jax.config import AugmentSettings, OptimizerSettings, Recipe, StageSettings

WIDTHS = (8, 16, 32, 64)


def get_config() -> Recipe:
    """`adn` on a 16 x 64 x 64 grid with 8 base maps."""
    adn = load_recipe(Path(__file__).with_name("adn.py"))
    return replace(
        adn,
        name="demo",
        prepare=replace(adn.prepare, shape=(16, 64, 64), spacing_mm=(9.0, 3.0, 3.0)),
        view_net=replace(adn.view_net, widths=WIDTHS),
        disentangle_net=replace(adn.disentangle_net, widths=WIDTHS, dropout=0.0),
        segment_net=replace(adn.segment_net, widths=WIDTHS, dropout=0.0),
        align_loss=replace(adn.align_loss, warm_start_steps=70),
        joint_loss=replace(adn.joint_loss, warm_start_steps=200),
        align=StageSettings(
            steps=100,
            batch=16,
            validate_every=50,
            optimizer=OptimizerSettings(learning_rate=1e-3, clip_norm=1.0),
            augment=AugmentSettings(rotation_deg=25.0, translation=0.05),
        ),
        joint=StageSettings(
            steps=300,
            batch=2,
            validate_every=75,
            optimizer=OptimizerSettings(learning_rate=2e-3),
        ),
    )
