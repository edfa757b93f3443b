import pytest
from jinja2 import UndefinedError

from adn_jax.report.pages import format_ml, format_number, page_environment


def test_numbers_for_readers():
    assert format_number(0.256) == "0.26"
    assert format_number(-3.14159, 1) == "−3.1"
    assert format_number(3.0, 1, True) == "+3.0"
    assert format_number(-0.001) == "0.00"
    assert format_number(-0.04, 1, True) == "+0.0"
    assert format_number(None) == format_number(float("nan")) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0"), (0.04, "0.04"), (0.1, "0.1"), (12.345, "12.3"), (None, "–")],
)
def test_small_volumes_are_told_in_hundredths(value, text):
    assert format_ml(value) == text


@pytest.mark.parametrize("package", ["adn_jax.prepare", "adn_jax.evaluation"])
def test_every_package_sees_the_shared_parts(package):
    environment = page_environment(package)
    for name in ("page.css", "table.js"):
        assert environment.get_template(name).render()


def test_text_is_escaped_and_missing_values_are_errors():
    template = page_environment("adn_jax.prepare").from_string("{{ name }}")
    assert template.render(name="<b>") == "&lt;b&gt;"
    with pytest.raises(UndefinedError):
        template.render()
