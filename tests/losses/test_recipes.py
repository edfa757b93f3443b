import re
import shlex
from dataclasses import fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from adn_jax.cli.arguments import load_recipe
from adn_jax.config import AlignLossSettings, JointLossSettings, Recipe
from adn_jax.errors import UserError
from adn_jax.losses.extra import resolve_term
from adn_jax.losses.recipes import (
    ALIGNMENT,
    DISENTANGLEMENT,
    SEGMENTATION,
    align_loss,
    joint_loss,
)
from tests import golden
from tests.losses.arrays import golden_chain, random_alignment, random_chain

PAGE = Path(__file__).parents[2] / "docs" / "loss-variants.md"
PAPER = JointLossSettings(warm_start_steps=2)
REFERENCE = load_recipe(PAGE.parents[1] / "configs" / "adn_reference.py")
AUTHORS = replace(REFERENCE.joint_loss, warm_start_steps=2)
ALIGN = AlignLossSettings(
    mirror=2.0, mirror_in_view=0.5, reconstruction=3.0, view_regression=0.25
)


def loss_of_align(settings, step=0):
    outputs = random_alignment()
    arrays = {field.name: getattr(outputs, field.name) for field in fields(outputs)}
    return align_loss(**arrays, settings=settings, step=step)


def segmentation_of(probability, label):
    return sum(float(term(probability, label)) for term in SEGMENTATION.values())


def test_every_weight_of_the_settings_has_its_term():
    def weights(settings, without):
        return {field.name for field in fields(settings)} - without

    assert set(ALIGNMENT) == weights(AlignLossSettings, {"warm_start_steps", "extra"})
    assert set(SEGMENTATION) | set(DISENTANGLEMENT) == weights(
        JointLossSettings, {"grid", "regularisation", "warm_start_steps", "extra"}
    )


@pytest.mark.parametrize("settings", [PAPER, AUTHORS])
def test_joint_total_is_segmentation_plus_lambda_times_the_terms(settings):
    outputs, targets = random_chain()
    total, values = joint_loss(outputs, targets, settings, 2)
    terms = {name for name in DISENTANGLEMENT if getattr(settings, name)}
    assert len(terms) == 4
    assert set(values) == set(SEGMENTATION) | terms | {"warm_start"}
    for name in terms:
        expected = DISENTANGLEMENT[name](outputs, targets)
        assert values[name] == pytest.approx(float(expected), rel=1e-6)
    segmentation = float(values["cross_entropy"] + values["generalised_dice"])
    regularisation = sum(float(values[name]) for name in terms)
    assert total == pytest.approx(segmentation + 10 * regularisation, rel=1e-6)


def test_segmentation_is_taken_on_the_grid_of_the_reading():
    outputs, targets = random_chain()
    off = {"regularisation": 0.0}
    on_scan, _ = joint_loss(outputs, targets, replace(PAPER, **off), 0)
    on_aligned, _ = joint_loss(outputs, targets, replace(AUTHORS, **off), 0)
    assert on_scan == pytest.approx(
        segmentation_of(outputs.prediction, targets.lesion), rel=1e-6
    )
    assert on_aligned == pytest.approx(
        segmentation_of(outputs.aligned_prediction, targets.aligned_lesion), rel=1e-6
    )


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_warm_start_replaces_the_terms_under_lambda(step):
    outputs, targets = random_chain()
    total, values = jax.jit(joint_loss, static_argnums=2)(
        outputs, targets, PAPER, jnp.asarray(step)
    )
    segmentation = segmentation_of(outputs.prediction, targets.lesion)
    warm_start = segmentation_of(outputs.pathological, targets.aligned_lesion)
    terms = sum(
        float(values[name]) for name in ("tissue", "size", "symmetric", "intrinsic")
    )
    assert values["warm_start"] == pytest.approx(warm_start, rel=1e-6)
    regularisation = warm_start if step < 2 else terms
    assert total == pytest.approx(segmentation + 10 * regularisation, rel=1e-6)


def test_lambda_weighs_the_warm_start_in_the_authors_steps():
    steps = golden.value("steps_total_seg_reg")
    total, segmentation, regularisation = steps.T
    np.testing.assert_allclose(total, segmentation + 10 * regularisation, rtol=1e-6)
    assert regularisation[1] > regularisation[2] + 0.5


def test_regularisation_of_the_code_is_the_sum_of_its_five_values():
    names = ("size", "asymmetry", "intrinsic", "greywhite", "csf")
    expected = sum(float(golden.value(f"dis_{name}")) for name in names)
    settings = replace(
        AUTHORS, cross_entropy=0.0, generalised_dice=0.0, warm_start_steps=0
    )
    total, _ = joint_loss(*golden_chain(), settings, 0)
    assert total == pytest.approx(10 * expected, rel=1e-5)


def test_gradient_reaches_p_through_the_warm_start_and_after_it():
    outputs, targets = random_chain()

    def loss(pathological, step):
        return joint_loss(
            replace(outputs, pathological=pathological), targets, PAPER, step
        )[0]

    early, late = (jax.grad(loss)(outputs.pathological, step) for step in (0, 2))
    assert np.isfinite(early).all()
    assert np.isfinite(late).all()
    assert np.abs(early - late).max() > 1e-4


def test_weight_zero_is_not_computed():
    outputs, targets = random_chain()
    spoilt = replace(targets, tissue=targets.tissue * jnp.nan)
    total, values = joint_loss(outputs, spoilt, replace(PAPER, tissue=0.0), 5)
    assert "tissue" not in values
    assert np.isfinite(total)
    nothing = replace(
        PAPER, cross_entropy=0.0, generalised_dice=0.0, regularisation=0.0
    )
    assert joint_loss(outputs, targets, nothing, 0) == (0, {})


def test_align_total_is_the_weighted_sum():
    total, values = loss_of_align(ALIGN)
    outputs = random_alignment()
    assert set(values) == set(ALIGNMENT)
    expected = sum(
        getattr(ALIGN, name) * float(term(outputs)) for name, term in ALIGNMENT.items()
    )
    assert total == pytest.approx(expected, rel=1e-6)
    assert set(loss_of_align(AlignLossSettings())[1]) == {"mirror"}


@pytest.mark.parametrize(("weight", "counted"), [(0.25, 0.25), (0.0, 1.0)])
def test_align_warm_start_is_the_regression_alone(weight, counted):
    settings = replace(ALIGN, view_regression=weight, warm_start_steps=3)
    warm, values = loss_of_align(settings, jnp.asarray(2))
    assert warm == pytest.approx(counted * float(values["view_regression"]), rel=1e-6)
    after, _ = loss_of_align(settings, jnp.asarray(3))
    plain, _ = loss_of_align(replace(settings, warm_start_steps=0))
    assert after == pytest.approx(float(plain), rel=1e-6)


@pytest.fixture
def page_module(tmp_path, monkeypatch):
    """The file that the page on loss variants tells the reader to write."""
    page = PAGE.read_text(encoding="utf-8")
    name = re.search(r"here `(\w+\.py)`", page)[1]
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield page
    resolve_term.cache_clear()


def test_the_example_of_the_page_runs_as_its_command_says(page_module):
    command = re.search(r"^python train.py configs/demo.py .*$", page_module, re.M)[0]
    options = shlex.split(command)[3:]
    start = options.index("--joint-loss.extra")
    recipe = tyro.cli(Recipe, args=["--name", "x", *options[start:]])
    assert recipe.joint_loss.extra == ("my_terms:boundary_charge:0.5",)

    outputs, targets = random_chain()
    settings = replace(PAPER, extra=recipe.joint_loss.extra)
    plain, _ = joint_loss(outputs, targets, PAPER, 5)
    total, values = jax.jit(joint_loss, static_argnums=2)(outputs, targets, settings, 5)
    p, g = np.asarray(outputs.pathological), np.asarray(targets.aligned_lesion)
    expected = (np.abs(np.diff(p, axis=3)) * (1 - g[:, :, :, 1:])).mean()
    assert values["my_terms:boundary_charge"] == pytest.approx(expected, rel=1e-5)
    assert total == pytest.approx(float(plain) + 0.5 * expected, rel=1e-5)


def test_options_that_the_page_names_exist():
    page = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"--(joint|align)-loss\.([\w-]+)", page))
    known = {"joint": JointLossSettings, "align": AlignLossSettings}
    assert len(named) >= 5
    for section, option in named:
        names = {field.name for field in fields(known[section])}
        assert option.replace("-", "_") in names


def test_align_terms_of_ones_own_take_its_outputs(tmp_path, monkeypatch):
    (tmp_path / "shift_terms.py").write_text(
        "import jax.numpy as jnp\ndef shift(o): return jnp.sum(o.view[:, 3] ** 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plain, _ = loss_of_align(ALIGN)
    total, values = loss_of_align(replace(ALIGN, extra=("shift_terms:shift:2",)))
    expected = float(np.sum(np.asarray(random_alignment().view)[:, 3] ** 2))
    assert values["shift_terms:shift"] == pytest.approx(expected, rel=1e-5)
    assert total == pytest.approx(float(plain) + 2 * expected, rel=1e-5)


def test_a_missing_module_is_the_users_error():
    settings = replace(PAPER, extra=("no_such_terms:charge",))
    with pytest.raises(UserError, match="'no_such_terms' of the loss term"):
        joint_loss(*random_chain(), settings, 0)


def test_sharded_batch_gives_the_loss_of_the_whole_batch():
    devices = jax.devices()
    if len(devices) < 2:
        pytest.skip("two devices are simulated by tests/conftest.py")
    mesh = jax.make_mesh(
        (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices[:2]
    )
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    chain = random_chain()
    compiled = jax.jit(joint_loss, static_argnums=2)
    whole, _ = compiled(*chain, PAPER, 5)
    parts, values = compiled(*jax.device_put(chain, spread), PAPER, 5)
    assert parts == pytest.approx(float(whole), rel=1e-6)
    assert all(np.isfinite(value) for value in values.values())
