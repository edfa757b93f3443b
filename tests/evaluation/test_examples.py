"""The example that compares D with F says what its maps say."""

import re

import numpy as np
import pytest

from adn_jax.data.cases import read_case
from adn_jax.inference.system import infer_case
from adn_jax.metrics.overlap import dice
from adn_jax.training.runs import load_run
from examples import what_f_adds
from tests.evaluation.noted import note


def test_a_run_without_d_is_one_sentence(write_tiny_run, plain_recipe):
    with pytest.raises(SystemExit, match=r"plain has no D .*; name runs of ADN\."):
        what_f_adds.main([write_tiny_run("plain", plain_recipe)])


def test_what_f_adds_is_told_for_each_run(tiny_run, tiny_data, capsys):
    note(tiny_run, data=str(tiny_data))
    what_f_adds.main([tiny_run])
    pattern = r"run: Dice of P (.+), of Y (.+); (\d+) % of the infarct in Y"
    p, y, beyond = re.match(pattern, capsys.readouterr().out).groups()
    model = load_run(tiny_run)
    maps = [
        infer_case(model.params, read_case(tiny_data / name), model.recipe)[0]
        for name in ("turned", "upright", "healthy")
    ]
    for text, name in ((p, "pathological"), (y, "aligned_prediction")):
        scores = [dice(getattr(m, name) >= 0.5, m.aligned_lesion) for m in maps]
        assert float(text) == pytest.approx(np.mean(scores), abs=6e-4)
    hits = [m.pathological[m.aligned_predicted & m.aligned_lesion] < 0.1 for m in maps]
    shares = [hit.mean() for hit in hits if hit.size]
    assert int(beyond) == pytest.approx(100 * np.mean(shares), abs=0.51)
