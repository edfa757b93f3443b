"""ADN with what it took to train it: a better start, a refined pose, a P that stays.

Command:  adn train configs/adn.py --data DIR --run RUN
Hardware: one GPU with 80 GB, or two; more need other --align.batch and --joint.batch.
Result:   not yet run at full size; on phantoms, smaller, `adn_parts.py`, `clerigues.py`
          and `adn_strong.py` score higher (docs/results.md).

Beyond the paper: the head is centred by mass, T starts from the identity and first
learns the answer of a coarse search, each scan's pose is refined on the mirror loss,
D and F start at the share of infarcted voxels instead of one half, P is taught the
infarct to the end, beside the paper's L_D, which alone lets it fall to 0, A leaves
out the brain's rim, and D and F see the box of 160 x 192 x 154 mm that holds the brain.
"""

from adn_jax.config import (
    AlignLossSettings,
    AlignmentNetSettings,
    AlignmentSettings,
    AsymmetrySettings,
    AugmentSettings,
    JointLossSettings,
    OptimizerSettings,
    Recipe,
    StageSettings,
    SystemSettings,
    UNetSettings,
)

INFARCT_SHARE = 0.018
"""Output of D and F before training: logit -4."""


def get_config() -> Recipe:
    """The recipe."""
    return Recipe(
        name="adn",
        system=SystemSettings(
            box=(32, 160, 128),
            alignment=AlignmentSettings(
                centre=True, search_limit_deg=10.0, refine_steps=12, refine_rate=0.01
            ),
            alignment_net=AlignmentNetSettings(
                rotation_limit_deg=(0.0, 0.0, 60.0),
                translation_limit=(0.5, 0.5, 0.0),
                identity_start=True,
            ),
            asymmetry=AsymmetrySettings(rim_mm=2.4),
            disentangle_net=UNetSettings(prior=INFARCT_SHARE),
            segment_net=UNetSettings(prior=INFARCT_SHARE),
        ),
        joint_loss=JointLossSettings(pathology_supervision=1.0),
        align_loss=AlignLossSettings(
            mirror=0.0,
            mirror_in_view=1.0,
            reconstruction=1.0,
            pose_regression=1.0,
            warm_start_steps=2_000,
        ),
        align=StageSettings(
            steps=4_000,
            batch=16,
            validate_every=500,
            optimizer=OptimizerSettings(learning_rate=1e-3, clip_norm=1.0),
            augment=AugmentSettings(rotation_deg=25.0, translation=0.1),
        ),
        joint=StageSettings(
            steps=16_700,
            batch=6,
            optimizer=OptimizerSettings(learning_rate=1e-3),
        ),
    )
