"""`adn` with what published plain U-Nets gain their numbers by.

Command:  python train.py configs/adn_strong.py --data DIR --run RUN
Hardware: as `adn.py`.
Result:   not yet run at full size; on phantoms see docs/results.md.

D sees the mirror image, too, and F both sides beside X_hat: where D has found nothing,
X_hat alone hides the infarct. F has five levels, the first pooling leaves thick slices
alone, and two decoder levels learn beside the last. Stronger augmentation, averaged
weights. What each is worth, and why poses are not averaged over: docs/results.md.
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.cli.arguments import load_recipe
from adn_jax.config import Recipe


def get_config() -> Recipe:
    """`adn` with a stronger F, and more for it to learn from."""
    adn = load_recipe(Path(__file__).with_name("adn.py"))
    return replace(
        adn,
        name="adn_strong",
        disentangle_input="mirror_pair",
        segment_input="salient_triple",
        segment_net=replace(
            adn.segment_net,
            widths=(32, 64, 128, 256, 320),
            flat_levels=1,
            deep_supervision=2,
        ),
        joint=replace(
            adn.joint,
            optimizer=replace(adn.joint.optimizer, average=0.999),
            augment=replace(
                adn.joint.augment,
                rotation_deg=15.0,
                translation=0.05,
                zoom=0.15,
                brightness=0.05,
                noise=0.03,
            ),
        ),
    )
