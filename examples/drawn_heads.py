"""A contact sheet of drawn heads, each in the slice with most of its infarct.

python examples/drawn_heads.py configs/adn.py heads.png --heads 64
"""

import argparse
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from adn_jax.config.recipe_file import load_recipe
from adn_jax.data.batches import train_batches
from adn_jax.data.stream import HeadStream

GRID = {"shape": (32, 96, 80), "spacing_mm": (5.0, 2.0, 2.0)}


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="recipe whose stream is drawn")
    parser.add_argument("out", type=Path, help="PNG file to write")
    parser.add_argument("--heads", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    recipe = load_recipe(asked.config)
    stream = HeadStream(recipe.stream, replace(recipe.system.prepare, **GRID))
    batch = next(train_batches(stream, asked.heads, asked.seed, place=jnp.asarray))
    side = int(np.ceil(np.sqrt(asked.heads)))
    figure, axes = plt.subplots(
        side, side, figsize=(1.5 * side, 1.8 * side), facecolor="black"
    )
    for axis in axes.flat:
        axis.axis("off")
    middle = GRID["shape"][0] // 2
    for axis, volume, lesion in zip(
        axes.flat, batch.volume, batch.lesion, strict=False
    ):
        slices = lesion.sum((1, 2, 3))
        z = int(slices.argmax()) if slices.max() > 1 else middle
        axis.imshow(volume[z, ..., 0], "gray", vmin=0, vmax=0.9, origin="lower")
    figure.subplots_adjust(0, 0, 1, 1, 0.02, 0.02)
    figure.savefig(asked.out, dpi=80)


if __name__ == "__main__":
    main()
