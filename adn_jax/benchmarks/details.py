"""What a step consists of: operations of each layer, and where the time goes."""

import math
from collections.abc import Sequence

from adn_jax.benchmarks.budget import Budget, BudgetRow
from adn_jax.benchmarks.job import TITLES, What
from adn_jax.config import Recipe
from adn_jax.models.cost import LayerCost, step_flops, step_networks
from adn_jax.report.tables import Section, digits, seconds

LEAST_SHARE = 0.005
"""Rows of a budget with less of the step's time are left to the sum."""


def budget_section(budget: Budget, what: What) -> Section:
    """Where the time of a step goes, beside the two floors."""
    sums = [
        math.fsum(getattr(row, name) for row in budget.rows)
        for name in ("seconds", "share", "compute_floor", "memory_floor")
    ]
    shown = [row for row in budget.rows if row.share >= LEAST_SHARE]
    return Section(
        f"{TITLES[what]}, profiled: {seconds(budget.step_s)} a call",
        ("part", "work", "direction", "ms", "share", "compute", "memory"),
        tuple(_budget_row(row) for row in (*shown, BudgetRow("all", "", "", *sums))),
        notes=("Compute, memory: the least ms that the measured peaks allow.",),
        texts=3,
    )


def _budget_row(row: BudgetRow) -> tuple[str, ...]:
    """One kind of work; times in ms."""
    times = (row.compute_floor, row.memory_floor)
    return (
        *(row.part, row.kind, row.direction),
        *(f"{1000 * row.seconds:.2f}", f"{row.share:.1%}"),
        *(f"{1000 * time:.2f}" for time in times),
    )


def layer_sections(recipe: Recipe, what: Sequence[What]) -> list[Section]:
    """Operations of each step by network, then of each network by layer."""
    networks: dict[tuple[LayerCost, ...], list[str]] = {}
    for each in what:
        for network in step_networks(recipe, each):
            parts = networks.setdefault(network.layers, [])
            if network.part not in parts:
                parts.append(network.part)
    steps = [_operations_section(recipe, each) for each in what]
    return steps + [_layers_section(*pair) for pair in networks.items()]


def _operations_section(recipe: Recipe, what: What) -> Section:
    """Operations of a step on one volume: networks and directions."""
    rows = [
        (network.part, direction, digits(count / 1e9))
        for network in step_networks(recipe, what)
        for direction, count in network.flops.items()
    ]
    total = digits(step_flops(recipe, what, 1) / 1e9)
    return Section(
        f"{TITLES[what]}: operations of a volume",
        ("network", "direction", "GFLOP"),
        (*rows, ("all", "", total)),
        texts=2,
    )


def _layers_section(layers: tuple[LayerCost, ...], parts: list[str]) -> Section:
    """Operations of the layers of one network forward, on one volume."""
    total = sum(layer.flops for layer in layers)
    computed = sum(layer.computed_flops for layer in layers)
    sums = ("all", "", "", "", digits(total / 1e9), digits(computed / 1e9))
    return Section(
        f"Layers of {' and '.join(parts)}, forward, a volume",
        ("layer", "output", "taps", "channels", "GFLOP", "computed"),
        (*(_layer_row(layer) for layer in layers), sums),
        notes=("Computed: with the exact rewrites of accelerators.",),
    )


def _layer_row(layer: LayerCost) -> tuple[str, ...]:
    """One layer: its sizes, its operations as the plain layer and as computed."""
    return (
        layer.path.removesuffix("/convolution"),
        " x ".join(map(str, layer.shape_zyx)),
        str(layer.taps),
        f"{layer.inputs} to {layer.features}",
        digits(layer.flops / 1e9),
        digits(layer.computed_flops / 1e9),
    )
