"""ADN as the authors' public code computes it; the recipe of imported checkpoints.

Command:  adn train configs/adn_reference.py --data DIR --run RUN
Hardware: one GPU with 80 GB, or two; more need other --align.batch, --tissue.batch and
          --joint.batch.
Result:   the authors publish no figure for the code. Not yet run by us.

Two plain faults of the code are not copied: labels are warped by nearest neighbours
(not linearly), and no label ever reaches a prediction.
"""

from adn_jax.config import (
    AlignLossSettings,
    AlignmentNetSettings,
    AsymmetrySettings,
    JointLossSettings,
    OptimizerSettings,
    PrepareSettings,
    Recipe,
    StageSettings,
    SystemSettings,
    UNetSettings,
)


def get_config() -> Recipe:
    """The code's reading of every point of docs/differences.md."""
    return Recipe(
        name="adn_reference",
        system=SystemSettings(
            prepare=PrepareSettings(tissue="auto"),
            asymmetry=AsymmetrySettings(
                anatomical="positive_part", compensated="clipped"
            ),
            alignment_net=AlignmentNetSettings(
                rotation_limit_deg=(0.0, 0.0, 40.0), translation_limit=(0.5, 0.0, 0.0)
            ),
        ),
        tissue_source="network",
        tissue_net=UNetSettings(outputs=5),
        align_loss=AlignLossSettings(reconstruction=1.0),
        joint_loss=JointLossSettings(
            grid="aligned",
            tissue=0.0,
            tissue_one_way=1.0,
            size=0.0,
            size_in_asymmetry=1.0,
            symmetric=0.0,
            symmetric_voxels=1.0,
            intrinsic=0.0,
            intrinsic_positive=1.0,
            warm_start_steps=334,
        ),
        align=StageSettings(
            steps=12_500,
            batch=40,
            validate_every=500,
            optimizer=OptimizerSettings(learning_rate=1e-5),
        ),
        tissue=StageSettings(
            steps=16_700,
            batch=6,
            optimizer=OptimizerSettings(learning_rate=1e-4),
        ),
        joint=StageSettings(
            steps=16_700,
            batch=6,
            optimizer=OptimizerSettings(learning_rate=1e-4),
        ),
    )
