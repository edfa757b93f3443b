"""What F finds beyond D: Dice of P and of Y on the aligned grid, over a split.

    python -m examples.what_f_adds RUN... [--split test]

Where both are alike and hardly any infarct is found outside P, F segments what D has
disentangled, and a better D is what a better ADN needs (docs/results.md).
"""

import sys
from pathlib import Path

import numpy as np
import tyro

from adn_jax.data.cases import PreparedCase, read_case
from adn_jax.evaluation.source import cases_of_split, find_data
from adn_jax.inference.system import infer_case
from adn_jax.metrics.overlap import dice
from adn_jax.training.runs import TrainedModel, load_run

WITHOUT_P = 0.1
"""P below which a voxel counts as not found by D."""


def main(runs: tyro.conf.Positional[list[Path]], split: str = "test") -> None:
    """Print a line for each run; one without D ends it with a sentence.

    Args:
        runs: folders of finished runs.
        split: split of the data set that a run was trained on.
    """
    for run in runs:
        model = load_run(run)
        if not model.recipe.system.disentangles:
            sys.exit(f"{run} has no D to compare F with; name runs of ADN.")
        manifest = find_data(model.run, None)
        names = cases_of_split(manifest, split)
        rows = [of_case(model, read_case(manifest.case_folder(name))) for name in names]
        p, y, beyond = np.nanmean(rows, axis=0)
        print(
            f"{run.name}: Dice of P {p:.3f}, of Y {y:.3f}; {100 * beyond:.0f} % of the "
            f"infarct in Y lies where P < {WITHOUT_P}"
        )


def of_case(model: TrainedModel, case: PreparedCase) -> tuple[float, float, float]:
    """Dice of P, Dice of Y, and the share of Y's true voxels that P lacks (or NaN).

    A P that is a part of A counts as D's output does, by its share of A.
    """
    maps, _ = infer_case(model.params, case, model.recipe)
    pathological = maps.pathological
    if maps.adds_up:
        total = maps.asymmetry
        nothing = np.zeros_like(total)
        pathological = np.divide(pathological, total, out=nothing, where=total > 0)
    label, threshold = maps.aligned_lesion, model.recipe.threshold
    found = maps.aligned_prediction >= threshold
    hit = pathological[found & label]
    beyond = np.mean(hit < WITHOUT_P) if hit.size else np.nan
    by_p = dice(pathological >= threshold, label)
    return by_p, dice(found, label), float(beyond)


if __name__ == "__main__":
    tyro.cli(main)
