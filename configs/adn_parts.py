"""`adn` whose P is a part of A, told from both sides of the head.

Command:  adn train configs/adn_parts.py --data DIR --run RUN
Hardware: as `adn.py`.
Result:   not yet run at full size; on phantoms see docs/results.md.

D's output s takes its part out of A, P = A s, so that P and Q are darkenings in HU that
add up to A, and X_hat lies between X and the brighter of the two sides; in the paper P
is s itself, which nears 1 on an infarct where A is 0.1. D sees X and X', F X_hat beside
them. L_D's size compares P with A on the infarct; that P is not to exceed A it need not
be taught.
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe


def get_config() -> Recipe:
    """`adn` with another P, and both sides for D and F to see."""
    adn = load_recipe(Path(__file__).with_name("adn.py"))
    return adn.with_fields(
        name="adn_parts",
        asymmetry=replace(adn.system.asymmetry, pathological="part"),
        disentangle_input="mirror_pair",
        segment_input="salient_triple",
        joint_loss=replace(
            adn.joint_loss, size=0.0, size_in_asymmetry=1.0, symmetric=0.0
        ),
    )
