from pathlib import Path

import numpy as np
import pytest

from adn_jax.comparison.compare import read_scores
from adn_jax.comparison.table import heading
from adn_jax.data.manifest import read_manifest
from adn_jax.errors import UserError
from tests.comparison.made_up import CASES, VOLUMES, made_up_rows


def test_tables_have_a_row_a_seed_and_a_column_a_case(runs):
    scores = read_scores(runs, "test")
    assert (scores.grid, scores.cases) == ("prepared", CASES)
    assert scores.label_ml == pytest.approx(VOLUMES)
    assert [each.system.name for each in scores.systems] == [
        "unet",
        "resunet_aligned",
        "adn",
    ]
    adn = scores.systems[2]
    assert adn.seeds == (0, 1)
    expected = [row["prepared_dice"] for row in made_up_rows(0.55, 1)]
    assert adn.tables["dice"][1] == pytest.approx(expected)
    assert adn.tables["auroc"].shape == (2, 12)
    assert np.isnan(adn.tables["mass_share"]).all()


def test_the_heading_tells_of_lost_labels(runs, data):
    manifest, scores = read_manifest(data), read_scores(runs, "test")
    assert "Left out" not in heading(scores, manifest, "test")
    scores.systems[0].summaries[0]["grids"]["prepared"]["empty"]["label_lost"] = 1
    said = heading(scores, manifest, "test")["Left out"]
    assert said == "label lost in 1 case: no score there"


def test_a_system_may_lack_a_seed(runs):
    scores = read_scores(runs[1:], "test")
    assert [each.seeds for each in scores.systems] == [(0, 1), (0, 1), (1,)]


def test_files_are_read_in_the_encoding_in_which_they_are_written(runs, monkeypatch):
    encodings, read = [], Path.read_text

    def noted(path, encoding=None):
        encodings.append(encoding)
        return read(path, encoding)

    monkeypatch.setattr(Path, "read_text", noted)
    read_scores(runs, "test")
    assert set(encodings) == {"utf-8"}


def test_mistakes(runs):
    with pytest.raises(UserError, match="no run is finished"):
        read_scores([], "test")
    with pytest.raises(UserError, match="no label on the native grid"):
        read_scores(runs, "test", "native")
    table = runs[2].folder / "evaluation" / "test" / "per_case.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match="adn-seed0 was scored on other cases"):
        read_scores(runs, "test")
