"""Made-up prepared cases of any grid: work for a benchmark, nothing to learn from."""

import numpy as np
from jaxtyping import Float

CaseArrays = dict[str, np.ndarray]
"""`volume`, `lesion`, `tissue` (z y x) and `case`, as `data.batches` reads them."""

LESION_RADIUS = 0.25
"""Of the head's half-extents; about the share of a large infarct."""


def draw_cases(shape_zyx: tuple[int, int, int], count: int) -> CaseArrays:
    """Cases 0 to `count` - 1 side by side, as `data.batches.stack_cases` gives them."""
    cases = [draw_case(shape_zyx, index) for index in range(count)]
    return {name: np.stack([case[name] for case in cases]) for name in cases[0]}


def draw_case(shape_zyx: tuple[int, int, int], index: int) -> CaseArrays:
    """An ellipsoid of three tissues with noise and a dark ball; fixed by its index."""
    rng = np.random.default_rng(index)
    side = rng.choice((-1, 1))
    radius = distance(shape_zyx, (0.0, 0.0, 0.0))
    brain = radius < 0.8
    lesion = brain & (distance(shape_zyx, (0.0, 0.1, 0.4 * side)) < LESION_RADIUS)
    tissue = 3 - np.digitize(radius, (0.3, 0.6))
    noise = rng.random(shape_zyx, np.float32)
    volume = brain * (0.3 + 0.1 * tissue - 0.1 * lesion + 0.2 * noise)
    return {
        "volume": volume.astype(np.float32),
        "lesion": np.uint8(255) * lesion,
        "tissue": (tissue * brain).astype(np.uint8),
        "case": np.array(index, np.int32),
    }


def distance(
    shape_zyx: tuple[int, int, int], centre: tuple[float, float, float]
) -> Float[np.ndarray, "z y x"]:
    """Distance to `centre` in half-extents of the volume."""
    axes = [(2 * np.arange(size) + 1) / size - 1 for size in shape_zyx]
    offsets = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.sqrt(sum((o - c) ** 2 for o, c in zip(offsets, centre, strict=True)))
