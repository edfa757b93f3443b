import pytest

from adn_jax.benchmarks.budget import Budget, BudgetRow
from adn_jax.benchmarks.table import budget_section, layer_sections
from adn_jax.models.cost import step_flops
from tests.benchmarks.records import RECIPE

ROWS = (
    BudgetRow("segment", "convolution", "forward", 0.4, 0.8, 0.1, 0.05),
    BudgetRow("loss", "reduction", "backward", 0.001, 0.002, 0.0, 0.01),
)


def test_small_rows_of_a_budget_are_in_the_sum_alone():
    section = budget_section(Budget(0.5, ROWS), "joint")
    assert section.title == "Train step of D and F, profiled: 500 ms a call"
    assert section.rows == (
        ("segment", "convolution", "forward", "400.00", "80.0%", "100.00", "50.00"),
        ("all", "", "", "401.00", "80.2%", "100.00", "60.00"),
    )


def test_operations_of_a_step_add_up():
    (joint, *_) = layer_sections(RECIPE, ("joint", "inference"))
    assert joint.columns == ("network", "direction", "GFLOP")
    *rows, total = (1e9 * float(row[-1]) for row in joint.rows)
    assert sum(rows) == pytest.approx(total, rel=1e-2)
    assert total == pytest.approx(step_flops(RECIPE, "joint", 1), rel=1e-2)


def test_networks_of_one_form_are_listed_once():
    sections = layer_sections(RECIPE, ("joint", "inference"))
    assert [section.title for section in sections] == [
        "Train step of D and F: operations of a volume",
        "Inference, I to O: operations of a volume",
        "Layers of align, forward, a volume",
        "Layers of disentangle and segment, forward, a volume",
    ]
    layers = sections[-1]
    name, output, taps, channels, plain, computed = layers.rows[-2]
    assert (name, output, taps) == ("head", "16 x 16 x 16", "1")
    assert channels == "2 to 1"
    assert plain == computed
    (up,) = (row for row in layers.rows if "up_0" in row[0])
    assert float(up[-1]) < float(up[-2])
