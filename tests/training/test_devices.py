"""One, two, four, eight devices share a batch, or also rows, and learn the same."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from tests import quick
from tests.training.conftest import ROOT
from tests.training.devices import BATCH, BOX

DEVICES = {"1": (1, 1), "2": (2, 1), "4": (4, 1), "8": (8, 1)}
SHARED_ROWS = {"1 x 2": (2, 2), "1 x 4": (4, 4), "4 x 2": (8, 2)}
"""Name -> devices, and how many of them share the rows of each case."""

SCALARS = 200
"""Bytes of the loss terms that are averaged over the batch, at most."""


@pytest.fixture(scope="module")
def found(heads):
    """Name -> losses, bytes moved a step, bytes of the parameters."""

    meshes = DEVICES | SHARED_ROWS
    flags = f"--xla_force_host_platform_device_count=8 {quick.FLAGS}"
    command = [sys.executable, "-m", "tests.training.devices", str(heads)]
    answer = subprocess.check_output(
        [*command, *(f"{devices}x{space}" for devices, space in meshes.values())],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        text=True,
    )
    return dict(zip(meshes, json.loads(answer.splitlines()[-1]).values(), strict=True))


@pytest.mark.slow
def test_the_losses_are_those_of_one_device(found):
    alone = found["1"]["losses"]
    assert len(alone) == 20
    assert alone[-1] < alone[0]
    for each in found.values():
        np.testing.assert_allclose(each["losses"], alone, rtol=1e-5)


@pytest.mark.slow
def test_the_gradient_alone_travels(found):
    assert found["1"]["moved"] == {}
    for name in list(DEVICES)[1:]:
        moved, parameters = found[name]["moved"], found[name]["parameters"]
        assert set(moved) == {"all-reduce"}
        assert parameters <= sum(moved["all-reduce"]) < parameters + SCALARS


@pytest.mark.slow
def test_shared_rows_move_edges_and_blocks_of_the_prediction(found):
    """No map is gathered; beside the gradient there are sums of each norm alone."""
    for name, (devices, space) in SHARED_ROWS.items():
        moved, parameters = found[name]["moved"], found[name]["parameters"]
        prediction = 4 * BATCH * space // devices * math.prod(BOX)
        assert set(moved) == {"all-reduce", "collective-permute"}
        assert sum(moved["all-reduce"]) < 2 * parameters
        # a row of the largest maps and their neighbours in z
        edge, block = prediction / BOX[1] * 6, prediction // space
        permuted = moved["collective-permute"]
        assert permuted.count(block) >= 2 * (space - 1)  # there and, as gradient, back
        assert max(permuted) <= max(edge, block)
