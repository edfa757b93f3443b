"""Losses of 20 joint steps on some of eight devices, and what travels between them.

python -m tests.training.devices FOLDER DEVICESxSHARDS ...
"""

import json
import math
import re
import sys
from functools import partial
from pathlib import Path

import jax

from adn_jax.config import AlignmentSettings, OptimizerSettings
from adn_jax.data.batches import open_split, train_batches
from adn_jax.data.manifest import read_manifest
from adn_jax.distributed.mesh import device_mesh, place_cases, replicate, replicated
from adn_jax.training.runs import initial_params
from adn_jax.training.stages import make_stage
from adn_jax.training.steps import initial_state, make_optimizer, make_train_step
from tests.training.tiny import tiny_recipe

BATCH, STEPS, BOX = 8, 20, (12, 8, 14)
RATE = 1e-4
"""The rate of `adn_reference`: larger ones make more of rounding."""

COLLECTIVE = re.compile(
    r"= (\(?.*?\)?) (all-reduce|all-gather|all-to-all|collective-permute|"
    r"reduce-scatter)(?:-start)?\("
)


def train(folder: Path, devices: int, space: int) -> dict:
    """{"losses", "moved", "parameters"}; `moved` has the bytes of each array."""
    recipe = tiny_recipe(alignment=AlignmentSettings(), box=BOX)
    mesh = device_mesh(devices, space)
    stage = make_stage("joint", recipe)
    keys = jax.random.split(jax.random.key(0), 3)
    optimizer = make_optimizer(OptimizerSettings(RATE), 2 * STEPS)
    state = initial_state(initial_params(keys[0], recipe, "joint"), optimizer)
    frozen = {"align": initial_params(keys[1], recipe, "align")}
    state, frozen = replicate((state, frozen), mesh)
    step = make_train_step(stage.loss, optimizer, keys[2], replicated(mesh))
    split = open_split(read_manifest(folder), "train")
    batches = train_batches(split, BATCH, 0, place=partial(place_cases, mesh=mesh))
    with jax.set_mesh(mesh):
        compiled = step.lower(state, frozen, next(batches)).compile()
    losses = []
    for _ in range(STEPS):
        state, values = compiled(state, frozen, next(batches))
        losses.append(float(values["loss"]))
    moved: dict[str, list[int]] = {}
    for shapes, kind in COLLECTIVE.findall(compiled.as_text()):
        moved.setdefault(kind, []).extend(bytes_of(shapes))
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    return {"losses": losses, "moved": moved, "parameters": parameters}


def bytes_of(shapes: str) -> list[int]:
    """Bytes of each float32 array in a result's type."""
    arrays = re.findall(r"f32\[([\d,]*)\]", shapes)
    return [4 * math.prod(map(int, filter(None, each.split(",")))) for each in arrays]


if __name__ == "__main__":
    heads, *meshes = sys.argv[1:]
    found = {each: train(Path(heads), *map(int, each.split("x"))) for each in meshes}
    print(json.dumps(found))
