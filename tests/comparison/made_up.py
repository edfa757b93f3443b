"""Made-up runs: their recipes, and the files that an evaluation would have left."""

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np

from adn_jax.comparison.work import Method, PlannedRun
from adn_jax.config.serialization import settings_to_json
from adn_jax.data.manifest import read_manifest
from adn_jax.evaluation.case import EMPTY_RULES
from adn_jax.evaluation.evaluate import RESULT_FORMAT
from adn_jax.io.paths import spelled_out
from adn_jax.training.runs import stages_of
from tests.training.tiny import tiny_recipe

CASES = tuple(f"case{i:02}" for i in range(12))
VOLUMES = np.geomspace(1.0, 90.0, len(CASES))
LEVELS = {"unet": 0.40, "resunet_aligned": 0.48, "adn": 0.55}


def make_system(name: str, **changes) -> Method:
    recipe = tiny_recipe(name=name, **changes)
    return Method(name, Path(f"{name}.py"), recipe, recipe)


def made_up_rows(level: float, seed: int, names=CASES, volumes=VOLUMES) -> list[dict]:
    """Lines of a per_case.csv: large infarcts are easier, seeds differ a little."""
    rng = np.random.default_rng(seed + int(1000 * level))
    rows = []
    for name, volume in zip(names, volumes, strict=True):
        dice = np.clip(level + 0.08 * np.log10(volume) + rng.normal(0, 0.1), 0, 1)
        rows.append(
            {
                "case": name,
                "prepared_dice": float(dice),
                "prepared_hd95_mm": float(60 * (1 - dice)),
                "prepared_label_ml": float(volume),
                "auroc": float(0.7 + 0.3 * dice),
            }
        )
    return rows


def write_scored(run: PlannedRun, data: Path, rows: list[dict]) -> None:
    """A finished run with scores, as training and evaluation leave it."""
    stages = {
        stage: {"steps": 4, "best_step": 2, "dice": 0.5}
        for stage in stages_of(run.recipe)
    }
    summary = {
        "format": RESULT_FORMAT,
        "cases": len(rows),
        "files_sha256": read_manifest(data).files_sha256["test"],
        "without_label": 0,
        "grid": "prepared",
        "grids": {"prepared": {"empty": {"label": 0, "prediction": 0, "both": 0}}},
        "label_rule": "label values 1 are infarct",
        "empty": {"rule": EMPTY_RULES["penalise"]},
        "threshold": run.recipe.threshold,
        "tta": None,
        "hd95_convention": "directed (larger of both); hd95_pooled_mm: pooled",
        "steps": dict.fromkeys(stages, 2),
        "data": spelled_out(data),
        "versions": {"python": "3.11", "jax": "0.9"},
    }
    folder = run.folder / "evaluation" / "test"
    folder.mkdir(parents=True)
    content = {
        "recipe": settings_to_json(run.recipe),
        "data": str(data),
        "cases_sha256": read_manifest(data).digest,
    }
    (run.folder / "config.json").write_text(json.dumps(content))
    (run.folder / "stages.json").write_text(json.dumps(stages))
    (folder / "summary.json").write_text(json.dumps(summary))
    buffer = StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    (folder / "per_case.csv").write_text(buffer.getvalue())
