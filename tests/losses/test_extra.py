import importlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.losses.recipes import ExtraTerm, resolve_term


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    """A module of the user's, under a name of its own."""
    (tmp_path / "my_module.py").write_text(
        "import jax.numpy as jnp\n"
        "LIST = [1]\n"
        "def total(array): return jnp.sum(array)\n"
        "def voxels(array): return array\n"
        "def nothing(array): return None\n"
        "def truth(array): return jnp.all(array > 0)\n"
        "def wave(array): return jnp.array(1 + 2j)\n"
        "def plain_truth(array): return True\n"
    )
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_module", None)


@pytest.mark.usefixtures("my_module")
def test_function_and_weight_are_found():
    term = resolve_term("my_module:total:0.5")
    assert (term.name, term.weight) == ("my_module:total", 0.5)
    assert term(jnp.ones(3, jnp.float32)) == 3
    assert resolve_term("my_module:total").weight == 1


@pytest.mark.usefixtures("my_module")
def test_a_module_that_is_loaded_again_gives_its_present_function(tmp_path):
    """As notebooks do."""
    assert resolve_term("my_module:total")(jnp.ones(3)) == 3
    changed = "def total(array): return 7.0 * array.size\n"
    (tmp_path / "my_module.py").write_text(changed)
    importlib.reload(sys.modules["my_module"])
    assert resolve_term("my_module:total")(jnp.ones(3)) == 21


def test_the_working_folder_is_searched(tmp_path, monkeypatch):
    """As `python train.py` does by itself, and the script `adn` does not."""
    (tmp_path / "my_terms.py").write_text("def one(array): return 1.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert resolve_term("my_terms:one")(jnp.zeros(1)) == 1


@pytest.mark.usefixtures("my_module")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("total", "'total' has another form than module:function"),
        ("my_module:total:1:2", "has another form than module:function or"),
        ("my_module:", "write for example my_terms:boundary_charge:0.5"),
        ("my_module:total:much", "weight 'much'; a number is wanted"),
        ("my_module:total:nan", "weight 'nan'; a number is wanted"),
        ("absent_module:total", "No module named 'absent_module'.*that holds it"),
        ("broken_module:total", "ZeroDivisionError: division by zero"),
        ("my_module:absent", "my_module.py.* has no function 'absent'"),
        ("my_module:LIST", "has no function 'LIST'; correct the name"),
    ],
)
def test_wrong_terms_are_named(text, message):
    with pytest.raises(UserError, match=message):
        resolve_term(text)


@pytest.mark.usefixtures("my_module")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("voxels", r"gives an array of shape \(2, 3\); one number is wanted"),
        ("nothing", "my_module:nothing gives a NoneType; one number"),
        ("truth", "gives a number of type bool; one number is wanted"),
        ("wave", "gives a number of type complex64; one number is wanted"),
        ("plain_truth", "gives a number of type bool; one number is wanted"),
    ],
)
def test_terms_that_give_no_number_are_named(function, message):
    term = resolve_term(f"my_module:{function}")
    with pytest.raises(UserError, match=message):
        term(jnp.ones((2, 3), jnp.float32))


@pytest.mark.parametrize(
    "value",
    [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), jnp.array(2, jnp.bfloat16)],
    ids=lambda value: f"{type(value).__name__}",
)
def test_any_real_number_is_a_value(value):
    found = ExtraTerm("mine:number", lambda: value, 1.0)()
    assert found == 2
    assert found.dtype == jnp.float32


def test_a_term_that_fails_is_named():
    def needs_p(outputs):
        return jnp.mean(outputs + None)

    term = ExtraTerm("mine:needs_p", needs_p, 1.0)
    with pytest.raises(
        UserError, match=r"mine:needs_p failed with TypeError: .*; corr"
    ):
        term(jnp.zeros(3))
