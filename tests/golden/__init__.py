"""Values of the authors' PyTorch code, and the seeded weights and inputs behind them.

NumPy only, so that any test may use it. The recipe is in README.md beside this file.
"""

from functools import cache
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


@cache
def values() -> dict[str, np.ndarray]:
    """All stored arrays by name, in PyTorch's layout (n, c, d, h, w)."""
    with np.load(FOLDER / "values.npz") as stored:
        return {name: stored[name] for name in stored}


def channels_last(array: np.ndarray) -> np.ndarray:
    """Bring an array from PyTorch's (n, c, d, h, w) to `b z y x c`."""
    return np.moveaxis(array, 1, -1)


def value(name: str) -> np.ndarray:
    """One stored array; five axes come as `b z y x c`."""
    array = values()[name]
    return channels_last(array) if array.ndim == 5 else array


def pose() -> dict[str, np.ndarray]:
    """The stored pose of the sampler's values as the fields of a `Pose`."""
    six = values()["sampler_view"]
    return {"rotation": six[:, :3], "translation": six[:, 3:]}


def six_of(pose) -> np.ndarray:
    """The six numbers of a `Pose`, as the authors order them."""
    return np.concatenate([pose.rotation, pose.translation], axis=-1)


def parameter_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter of `network` by its PyTorch name, in file order."""
    lines = (FOLDER / f"parameters_{network}.tsv").read_text().splitlines()
    pairs = (line.split("\t") for line in lines)
    return {name: tuple(map(int, shape.split("x"))) for name, shape in pairs}


def parameters(network: str, seed: int) -> dict[str, np.ndarray]:
    """Seeded float32 weights of `network` ("T", "resunet_f8", "unet_f8").

    One standard normal draw a parameter, in file order: kernels are divided by the
    root of their fan-in, one-dimensional scales become 1 + 0.1 * draw, biases
    0.1 * draw.
    """
    random = np.random.default_rng(seed)
    shapes = parameter_shapes(network)
    return {name: _parameter(random, name, shape) for name, shape in shapes.items()}


def volume(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform [0, 1) float32 array; give PyTorch's shape, get `b z y x c`."""
    drawn = np.random.default_rng(seed).random(shape, dtype=np.float32)
    return channels_last(drawn) if drawn.ndim == 5 else drawn


def _parameter(
    random: np.random.Generator, name: str, shape: tuple[int, ...]
) -> np.ndarray:
    draw = random.standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return draw * np.float32(1 / np.sqrt(np.prod(shape[1:])))
    small = np.float32(0.1) * draw
    return np.float32(1) + small if name.endswith("weight") else small
