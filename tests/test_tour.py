"""The notebook of `examples/` runs from its first cell to its last."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import Image

TOUR = Path(__file__).parents[1] / "examples" / "tour.ipynb"


def values_of_cells():
    """What each cell of code shows, by the order of the cells."""
    names, shown = {}, []
    for cell in json.loads(TOUR.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        *body, last = ast.parse("".join(cell["source"])).body
        assert isinstance(last, ast.Expr)
        exec(compile(ast.Module(body, []), TOUR.name, "exec"), names)
        shown.append(
            eval(compile(ast.Expression(last.value), TOUR.name, "eval"), names)
        )
    return shown


@pytest.mark.slow
def test_the_tour_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    shape, results, gap, scan, overview, overlap = values_of_cells()
    assert set(results.values()) == {shape}
    assert gap == 0.0
    for picture in (scan, overview):
        assert isinstance(picture, Image)
        assert np.asarray(picture).std() > 20
    assert overlap > 0.5
