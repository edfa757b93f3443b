import re
import shlex
from dataclasses import fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.cli.arguments import parse_with_recipe
from adn_jax.cli.sweep import Sweep
from adn_jax.cli.train import Train
from adn_jax.config import AlignLossSettings, JointLossSettings
from adn_jax.config.fields import read_pairs
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.sizes import demo_size
from adn_jax.errors import UserError
from adn_jax.losses.recipes import (
    ALIGNMENT,
    DISENTANGLEMENT,
    SEGMENTATION,
    WARM_START,
    align_loss,
    joint_loss,
    resolve_term,
    segmentation_loss,
    weighted_joint_terms,
)
from adn_jax.losses.segmentation import VOXELS
from tests import golden
from tests.losses.arrays import golden_chain, random_alignment, random_chain, random_map

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "loss-variants.md"
PAPER = JointLossSettings(warm_start_steps=2)
REFERENCE = load_recipe(ROOT / "configs" / "adn_reference.py")
AUTHORS = replace(REFERENCE.joint_loss, warm_start_steps=2)
ALIGN = AlignLossSettings(
    mirror=2.0, mirror_in_view=0.5, reconstruction=3.0, pose_regression=0.25
)


def loss_of_align(settings, step=0):
    outputs = random_alignment()
    arrays = {field.name: getattr(outputs, field.name) for field in fields(outputs)}
    return align_loss(**arrays, settings=settings, step=step)


NO_TERMS = {"warm_start_steps", "extra", "schedules"}
"""Fields of both losses that are no weights."""


def segmentation_of(probability, label):
    """Cross-entropy and generalised Dice: L_F of the paper."""
    return sum(float(term(probability, label)) for term in WARM_START.values())


def test_every_weight_of_the_settings_has_its_term():
    def weights(settings, without):
        return {field.name for field in fields(settings)} - without

    assert set(ALIGNMENT) == weights(AlignLossSettings, NO_TERMS)
    assert set(SEGMENTATION) | set(DISENTANGLEMENT) == weights(
        JointLossSettings, NO_TERMS | {"grid", "regularisation", "gradient_norms_every"}
    )


@pytest.mark.parametrize("settings", [PAPER, AUTHORS])
def test_joint_total_is_segmentation_plus_lambda_times_the_terms(settings):
    outputs, targets = random_chain()
    total, values = joint_loss(outputs, targets, settings, 2)
    terms = {name for name in DISENTANGLEMENT if getattr(settings, name)}
    assert len(terms) == 4
    assert set(values) == set(WARM_START) | terms | {"warm_start"}
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


ALL = replace(
    PAPER,
    focal_tversky=0.3,
    boundary=0.02,
    size_by_volume=0.1,
    pathology_supervision=0.5,
    pathology_cross_entropy=0.3,
    schedules=(
        *("size:0:10", "cross_entropy:5:10:2:1", "boundary:0:4"),
        *("regularisation:0:8:1:0.5", "regularisation:20:30:1:0"),
    ),
)


@pytest.mark.parametrize("step", [1, 6])
def test_weighted_terms_sum_to_the_total(step):
    outputs, targets = random_chain()
    step = jnp.asarray(step)
    total, values = joint_loss(outputs, targets, ALL, step, VOXELS)
    weighted = weighted_joint_terms(outputs, targets, ALL, step, VOXELS)
    assert weighted.keys() == values.keys()
    assert sum(weighted.values()) == pytest.approx(float(total), rel=1e-6)
    terms = set(DISENTANGLEMENT) & set(values)
    assert len(terms) == 7
    for name in terms | {"warm_start"}:
        assert (weighted[name] != 0) == ((name == "warm_start") == (step < 2)), name


def with_sides(outputs, *seeds):
    sides = tuple(random_map(seed) for seed in seeds)
    return replace(outputs, auxiliary_predictions=sides)


@pytest.mark.parametrize("settings", [PAPER, AUTHORS])
def test_side_predictions_share_the_weight_of_l_f(settings):
    outputs, targets = random_chain()
    plain, plain_values = joint_loss(outputs, targets, settings, 3)
    deep = with_sides(outputs, 71, 72)
    total, values = joint_loss(deep, targets, settings, 3)
    label = targets.aligned_lesion
    finer, coarser = (
        segmentation_of(side, label) for side in deep.auxiliary_predictions
    )
    side = (finer / 2 + coarser / 4) / (3 / 4)
    assert values.pop("deep_supervision") == pytest.approx(side, rel=1e-6)
    assert values == plain_values
    own = sum(float(values[name]) for name in WARM_START)
    added = (own + finer / 2 + coarser / 4) / (7 / 4) - own
    assert total == pytest.approx(float(plain) + added, rel=1e-6)


def test_weighted_terms_with_side_predictions_sum_to_the_total():
    step = 6
    outputs, targets = random_chain()
    deep = with_sides(outputs, 71, 72, 73)
    total, values = joint_loss(deep, targets, ALL, step, VOXELS)
    weighted = weighted_joint_terms(deep, targets, ALL, step, VOXELS)
    plain = weighted_joint_terms(outputs, targets, ALL, step, VOXELS)
    assert weighted.keys() == values.keys() == plain.keys() | {"deep_supervision"}
    assert sum(weighted.values()) == pytest.approx(float(total), rel=1e-6)
    for name, value in plain.items():
        share = 8 / 15 if name in SEGMENTATION else 1
        assert weighted[name] == pytest.approx(share * float(value), rel=1e-6)
    # all predictions alike: L_F is what it is without the side predictions
    alike = replace(outputs, aligned_prediction=outputs.prediction)
    settings, same = replace(ALL, grid="aligned"), (outputs.prediction,) * 3
    deep_total, _ = joint_loss(
        replace(alike, auxiliary_predictions=same), targets, settings, step, VOXELS
    )
    expected, _ = joint_loss(alike, targets, settings, step, VOXELS)
    assert deep_total == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (4, 0.5), (8, 1.0), (99, 1.0)])
def test_schedule_multiplies_its_term_alone(step, share):
    chain = random_chain()
    settings = replace(PAPER, warm_start_steps=0, schedules=("tissue:0:8",))
    compiled = jax.jit(weighted_joint_terms, static_argnums=2)
    changed = compiled(*chain, settings, jnp.asarray(step))
    plain = compiled(*chain, replace(settings, schedules=()), jnp.asarray(step))
    for name, value in plain.items():
        factor = share if name == "tissue" else 1
        assert changed[name] == pytest.approx(factor * float(value), rel=1e-6)


def test_schedule_of_lambda_reaches_all_terms_under_it_and_the_warm_start():
    chain = random_chain()
    settings = replace(PAPER, schedules=("regularisation:0:8:1:0",))
    plain = replace(PAPER, schedules=())
    for step in (1, 4):
        changed = weighted_joint_terms(*chain, settings, step)
        for name, value in weighted_joint_terms(*chain, plain, step).items():
            factor = 1 if name in SEGMENTATION else 1 - step / 8
            assert changed[name] == pytest.approx(factor * float(value), rel=1e-6)


def test_without_schedules_the_step_only_decides_on_the_warm_start():
    def uses_of_step(settings):
        program = jax.make_jaxpr(joint_loss, static_argnums=2)(
            *random_chain(), settings, jnp.int32(3)
        )
        step = program.jaxpr.invars[-1]
        return [eqn.primitive.name for eqn in program.eqns if step in eqn.invars]

    assert uses_of_step(PAPER) == ["lt"]
    assert uses_of_step(replace(PAPER, warm_start_steps=0)) == []


def test_warm_start_keeps_to_its_two_terms_and_their_plain_weights():
    chain = random_chain()
    _, values = joint_loss(*chain, ALL, 0, VOXELS)
    _, plain = joint_loss(*chain, PAPER, 0)
    assert values["warm_start"] == plain["warm_start"]


def test_distances_of_the_boundary_are_in_millimetres():
    chain = random_chain()
    settings = JointLossSettings(
        cross_entropy=0.0, generalised_dice=0.0, regularisation=0.0, boundary=1.0
    )
    with pytest.raises(UserError, match=r"no voxel size is given; .* spacing_mm"):
        joint_loss(*chain, settings, 0)
    voxels, _ = joint_loss(*chain, settings, 0, VOXELS)
    double, _ = joint_loss(*chain, settings, 0, (2.0, 2.0, 2.0))
    slices, _ = joint_loss(*chain, settings, 0, (5.0, 1.0, 1.0))
    assert double == pytest.approx(2 * float(voxels), rel=1e-5)
    assert abs(slices - voxels) > 1e-3
    outputs, targets = chain
    pair = outputs.prediction, targets.lesion
    alone, values = segmentation_loss(*pair, settings, 0, (5.0, 1.0, 1.0))
    assert alone == values["boundary"] == slices


def test_a_system_without_p_has_the_loss_of_its_prediction():
    outputs, targets = random_chain()
    made_by_d = ("pathological", "anatomical", "salient", "compensated")
    plain = replace(outputs, **dict.fromkeys(made_by_d))
    settings = replace(ALL, regularisation=0.0)
    compiled = jax.jit(joint_loss, static_argnums=(2, 4))
    total, values = compiled(plain, targets, settings, jnp.int32(2), VOXELS)
    assert total == compiled(outputs, targets, settings, jnp.int32(2), VOXELS)[0]
    assert set(values) == {name for name in SEGMENTATION if getattr(ALL, name)}


def test_a_term_that_is_named_twice_counts_with_both_weights(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    name = "examples.loss_terms:boundary_charge"
    chain, once = random_chain(), (f"{name}:0.75",)
    twice = (f"{name}:0.5", f"{name}:0.25")
    totals = [joint_loss(*chain, replace(PAPER, extra=e), 5)[0] for e in (once, twice)]
    assert totals[0] == pytest.approx(float(totals[1]), rel=1e-6)


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


def test_align_schedules_spare_the_warm_start():
    settings = replace(ALIGN, warm_start_steps=3)
    changed = replace(settings, schedules=("mirror:0:10", "pose_regression:0:10"))
    assert loss_of_align(changed, 2)[0] == loss_of_align(settings, 2)[0]
    total, values = loss_of_align(changed, 5)
    plain, _ = loss_of_align(settings, 5)
    half = 2.0 * float(values["mirror"]) + 0.25 * float(values["pose_regression"])
    assert total == pytest.approx(float(plain) - half / 2, rel=1e-5)


@pytest.mark.parametrize(("weight", "counted"), [(0.25, 0.25), (0.0, 1.0)])
def test_align_warm_start_is_the_regression_alone(weight, counted):
    settings = replace(ALIGN, pose_regression=weight, warm_start_steps=3)
    warm, values = loss_of_align(settings, jnp.asarray(2))
    assert warm == pytest.approx(counted * float(values["pose_regression"]), rel=1e-6)
    after, _ = loss_of_align(settings, jnp.asarray(3))
    plain, _ = loss_of_align(replace(settings, warm_start_steps=0))
    assert after == pytest.approx(float(plain), rel=1e-6)


def commands_of_the_page():
    """Every full command line, its continued lines joined."""
    page = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^(adn (?:train|sweep) .*)$", page, re.M)


def trainings_of_the_page():
    return [each for each in commands_of_the_page() if each.startswith("adn train")]


@pytest.mark.parametrize("command", trainings_of_the_page(), ids=lambda c: c[-40:])
def test_commands_of_the_page_give_a_loss(command, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(ROOT)
    _, recipe = parse_with_recipe(Train, "train", shlex.split(command)[2:])
    plain = demo_size(load_recipe(ROOT / "configs" / "adn.py"))
    assert recipe.joint_loss != plain.joint_loss
    total, values = joint_loss(*random_chain(), recipe.joint_loss, 250, VOXELS)
    assert np.isfinite(total)
    for text in recipe.joint_loss.extra:
        assert text.rpartition(":")[0] in values


def test_the_page_sweeps_over_known_settings():
    (command,) = (each for each in commands_of_the_page() if " sweep " in each)
    sweep, _ = parse_with_recipe(Sweep, "sweep", shlex.split(command)[2:])
    over = read_pairs("--over", (text for texts in sweep.over for text in texts))
    assert over == {"joint_loss.regularisation": "0,1,10,100"}


@pytest.mark.parametrize("name", ["boundary_charge", "two_sided", "agreement"])
def test_example_terms_are_numbers_with_a_gradient(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    outputs, targets = random_chain()
    term = resolve_term(f"examples.loss_terms:{name}")

    def loss(pathological):
        return term(replace(outputs, pathological=pathological), targets)

    value, gradient = jax.jit(jax.value_and_grad(loss))(outputs.pathological)
    assert value > 0
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_example_term_of_t(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    extra = ("examples.loss_terms:small_turns:0.1",)
    plain, _ = loss_of_align(ALIGN)
    total, _ = loss_of_align(replace(ALIGN, extra=extra))
    turns = np.asarray(random_alignment().pose.rotation)
    assert total == pytest.approx(float(plain) + 0.1 * (turns**2).mean(), rel=1e-5)


def test_the_page_shows_the_example_and_it_is_its_equation(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    page = PAGE.read_text(encoding="utf-8")
    shown = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    assert shown in (ROOT / "examples" / "loss_terms.py").read_text(encoding="utf-8")

    outputs, targets = random_chain()
    name = "examples.loss_terms:boundary_charge"
    settings = replace(PAPER, extra=(f"{name}:0.5",), schedules=(f"{name}:0:10",))
    plain, _ = joint_loss(outputs, targets, PAPER, 5)
    total, values = jax.jit(joint_loss, static_argnums=2)(outputs, targets, settings, 5)
    p, g = np.asarray(outputs.pathological), np.asarray(targets.aligned_lesion)
    expected = (np.abs(np.diff(p, axis=3)) * (1 - g[:, :, :, 1:])).mean()
    assert values[name] == pytest.approx(expected, rel=1e-5)
    assert total == pytest.approx(float(plain) + 0.25 * expected, rel=1e-5)


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
        "import jax.numpy as jnp\n"
        "def shift(o): return jnp.sum(o.pose.translation[:, 0] ** 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plain, _ = loss_of_align(ALIGN)
    total, values = loss_of_align(replace(ALIGN, extra=("shift_terms:shift:2",)))
    expected = float(np.sum(np.asarray(random_alignment().pose.translation)[:, 0] ** 2))
    assert values["shift_terms:shift"] == pytest.approx(expected, rel=1e-5)
    assert total == pytest.approx(float(plain) + 2 * expected, rel=1e-5)
    warm = replace(ALIGN, warm_start_steps=3)
    plain, _ = loss_of_align(warm)
    total, _ = loss_of_align(replace(warm, extra=("shift_terms:shift:2",)))
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
    compiled = jax.jit(joint_loss, static_argnums=(2, 4))
    whole, _ = compiled(*chain, ALL, 5, VOXELS)
    parts, values = compiled(*jax.device_put(chain, spread), ALL, 5, VOXELS)
    assert parts == pytest.approx(float(whole), rel=1e-6)
    assert all(np.isfinite(value) for value in values.values())
