import functools
import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from adn_jax.config import AlignmentSettings, StageSettings
from adn_jax.data.manifest import Fold
from adn_jax.errors import UserError
from adn_jax.training import begin, runs
from adn_jax.training import train as module
from adn_jax.training.runs import (
    Run,
    checksum,
    initial_params,
    load_run,
    read_finished,
)
from adn_jax.training.train import train
from adn_jax.training.updates import make_update
from tests.training.made_up import no_update
from tests.training.tiny import drop_volume, tiny_recipe, write_heads

SHORT = StageSettings(steps=3, batch=2, validate_every=2)

RECIPE = tiny_recipe(
    tissue_source="network", align=SHORT, joint=SHORT, tissue=StageSettings()
)

NO_TISSUE = replace(RECIPE.joint_loss, tissue=0.0)

NO_NET = replace(RECIPE, tissue_source="none", joint_loss=NO_TISSUE)


@functools.cache
def some_params(stage):
    """Random numbers in the shape of a stage's parameters."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        lambda key: initial_params(key, RECIPE, stage), jax.random.key(0)
    )
    return jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)


@pytest.fixture(autouse=True)
def made_up_training(monkeypatch):
    """Stages end at once, with fresh weights; what they were given is kept."""
    given = {}

    def end(stage, run, _training, _validation, frozen, _mesh, update):
        given[stage.name] = frozen
        given["fresh", stage.name] = update.fresh
        run.write_stage(stage.name, some_params(stage.name))
        return 0

    monkeypatch.setattr(module, "train_stage", end)
    monkeypatch.setattr(module, "compile_update", no_update)
    monkeypatch.setattr(module, "search_table", lambda *_: "table")
    return given


@pytest.fixture
def source(tmp_path):
    """A run elsewhere that is finished up to the tissue stage."""
    run = tmp_path / "phantoms" / "run"
    written = Run.create(run, replace(RECIPE, seed=7))
    written.write_stage("tissue", some_params("tissue"))
    return run


@pytest.fixture
def data(tmp_path):
    """Heads without tissue maps."""
    folder = write_heads(tmp_path / "data", train=2, validation=1).folder
    drop_volume(folder, "tissue", "head00", "head01", "head02")
    return folder


def trained(given):
    """The stages that were trained."""
    return [name for name in given if isinstance(name, str)]


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_net_is_taken_and_the_rest_trained(
    source, data, tmp_path, made_up_training
):
    run = tmp_path / "run"
    assert train(RECIPE, data, run, pretrained={"tissue": source}) == 0
    assert trained(made_up_training) == ["align", "joint"]
    assert_equal(made_up_training["joint"]["tissue"], some_params("tissue"))
    assert Run.open(run).pretrained == {"tissue": str(source)}
    finished = read_finished(run)
    assert finished["tissue"] == {
        "steps": 0,
        "best_step": 0,
        "sha256": checksum(some_params("tissue")),
        "taken_from": str(source),
        "step_there": 0,
    }
    assert list(finished) == ["tissue", "align", "joint"]
    shutil.rmtree(source)  # the run stands for itself
    model = load_run(run)
    assert_equal(model.tissue, some_params("tissue"))
    assert model.run.steps["tissue"] == 0
    before = (run / "stages.json").read_bytes()
    assert train(RECIPE, data, run) == 0
    other_way = source.parent / "elsewhere" / ".." / source.name
    assert train(RECIPE, data, run, pretrained={"tissue": other_way}) == 0
    assert (run / "stages.json").read_bytes() == before


def test_a_run_stopped_before_the_net_was_taken_goes_on(
    source, data, tmp_path, monkeypatch
):
    run = tmp_path / "run"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(begin, "copy_stage", stop)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, data, run, pretrained={"tissue": source})
    assert read_finished(run) == {}
    assert train(RECIPE, data, run) == 0
    assert_equal(Run.open(run).params("tissue"), some_params("tissue"))


def test_a_net_that_is_given_later_is_noted(source, data, tmp_path):
    run, own = tmp_path / "run", replace(RECIPE, tissue=SHORT, joint_loss=NO_TISSUE)
    Run.create(run, own, data)
    assert train(own, data, run, pretrained={"tissue": source}) == 0
    assert Run.open(run).pretrained == {"tissue": str(source)}
    assert train(own, data, run, pretrained={"tissue": source}) == 0


def test_data_that_is_never_given_tissue(source, data, tmp_path):
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["settings"]["tissue"] = "none"
    (data / "manifest.json").write_text(json.dumps(manifest))
    recipe = RECIPE.with_fields(prepare=replace(RECIPE.system.prepare, tissue="none"))
    with pytest.raises(UserError, match=r"tissue\.steps is 0"):
        train(recipe, data, tmp_path / "run")
    taught = replace(recipe, tissue=SHORT)
    with pytest.raises(UserError, match=r"prepare\.tissue is none, but"):
        train(taught, data, tmp_path / "run")
    assert train(recipe, data, tmp_path / "run", pretrained={"tissue": source}) == 0


def refuse(recipe, data, run, source):
    with pytest.raises(UserError) as caught:
        train(recipe, data, run, pretrained={"tissue": source})
    return str(caught.value)


def test_a_net_that_does_not_fit_is_refused_before_any_work(source, data, tmp_path):
    other = RECIPE.with_fields(
        tissue_net=replace(RECIPE.tissue_net, widths=(2, 8)),
        prepare=replace(RECIPE.system.prepare, window_hu=(0.0, 100.0), tissue="none"),
    )
    said = refuse(other, data, tmp_path / "run", source)
    assert said == (
        f"the tissue net of {source} does not fit this recipe (prepare.window_hu "
        "(0.0, 80.0) -> (0.0, 100.0); tissue_net.widths (2, 4) -> (2, 8)); set these "
        "fields as they are there, or give another run."
    )
    coarse = replace(RECIPE.system.prepare, spacing_mm=(8.0, 12.0, 12.0))
    said = refuse(RECIPE.with_fields(prepare=coarse), data, tmp_path / "run", source)
    assert "prepare.spacing_mm (8.0, 10.0, 10.0) -> (8.0, 12.0, 12.0)" in said
    assert not (tmp_path / "run").exists()


def test_a_recipe_without_a_tissue_net(source, data, tmp_path):
    recipe = replace(RECIPE, tissue_source="maps")
    said = refuse(recipe, data, tmp_path / "run", source)
    assert "--tissue-run is given, but the recipe 'tiny' uses no tissue net" in said
    assert "set --tissue-source network" in said


def test_no_run_and_no_finished_tissue_stage(data, tmp_path):
    run, source = tmp_path / "run", tmp_path / "source"
    assert "is no run (it has no config.json)" in refuse(RECIPE, data, run, source)
    Run.create(source, RECIPE).mark_finished("align", {"steps": 2, "best_step": 2})
    assert "has no finished tissue stage" in refuse(RECIPE, data, run, source)


def test_another_net_than_at_the_beginning(source, data, tmp_path):
    own = replace(RECIPE, tissue=SHORT)
    Run.create(tmp_path / "own", own, data).mark_finished("align", {"best_step": 2})
    said = refuse(own, data, tmp_path / "own", source)
    assert said.endswith(
        f"own was begun without --tissue-run, not with {source}; choose another --run "
        "folder."
    )
    elsewhere = {"tissue": "/elsewhere"}
    other = Run.create(tmp_path / "other", RECIPE, data, pretrained=elsewhere)
    other.mark_finished("align", {"best_step": 2})
    said = refuse(RECIPE, data, tmp_path / "other", source)
    assert f"begun with --tissue-run /elsewhere, not with {source}" in said


def test_damaged_weights_leave_nothing_half_taken(source, data, tmp_path):
    shutil.rmtree(source / "checkpoints" / "tissue" / "0")
    said = refuse(RECIPE, data, tmp_path / "run", source)
    assert "tissue/0 is missing, the weights of stage 'tissue'" in said
    assert read_finished(tmp_path / "run") == {}
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_t_of_another_run_is_taken_too(data, tmp_path, made_up_training):
    source = tmp_path / "first"
    Run.create(source, RECIPE).write_stage("align", some_params("align"))
    recipe = replace(RECIPE, tissue_source="none", joint_loss=NO_TISSUE)
    run = tmp_path / "run"
    assert train(recipe, data, run, pretrained={"align": source}) == 0
    assert trained(made_up_training) == ["joint"]
    assert_equal(made_up_training["joint"]["align"], some_params("align"))

    def refused(recipe):
        with pytest.raises(UserError) as caught:
            train(recipe, data, tmp_path / "other", pretrained={"align": source})
        return str(caught.value)

    wide = recipe.with_fields(
        alignment_net=replace(recipe.system.alignment_net, widths=(2, 8))
    )
    assert "the T of" in refused(wide)
    assert "alignment_net.widths (2, 4) -> (2, 8)" in refused(wide)
    off = recipe.with_fields(alignment=replace(recipe.system.alignment, network=False))
    assert "uses no T that is trained; choose a recipe with --alignment" in refused(off)
    uncentred = recipe.with_fields(
        alignment=replace(recipe.system.alignment, centre=False)
    )
    assert "alignment.centre True -> False" in refused(uncentred)


@pytest.fixture
def real_states(monkeypatch):
    """Stages have their true first state; the step is never called."""
    monkeypatch.setattr(module, "compile_update", lambda *it: make_update(*it[:3]))


@pytest.fixture
def whole(tmp_path):
    """A finished run without a tissue net."""
    run = tmp_path / "whole"
    written = Run.create(run, NO_NET)
    for stage in ("align", "joint"):
        written.write_stage(stage, some_params(stage))
    return run


@pytest.mark.usefixtures("real_states")
def test_d_and_f_begin_with_the_weights_of_another_run(
    whole, data, tmp_path, made_up_training
):
    run = tmp_path / "run"
    pretrained = {"align": whole, "joint": whole}
    assert train(NO_NET, data, run, pretrained=pretrained) == 0
    assert trained(made_up_training) == ["joint"]
    assert_equal(made_up_training["joint"]["align"], some_params("align"))
    state = jax.jit(made_up_training["fresh", "joint"])()
    assert_equal(state.params, some_params("joint"))
    assert int(state.step) == 0
    assert Run.open(run).pretrained == dict.fromkeys(pretrained, str(whole))
    shutil.rmtree(whole)  # finished, the run stands for itself
    assert train(NO_NET, data, run) == 0


@pytest.mark.usefixtures("real_states")
def test_the_average_of_weights_begins_with_them_too(
    whole, data, tmp_path, made_up_training
):
    averaged = replace(SHORT.optimizer, ema_decay=0.9)
    recipe = replace(NO_NET, joint=replace(SHORT, optimizer=averaged))
    train(recipe, data, tmp_path / "run", pretrained={"joint": whole})
    state = jax.jit(made_up_training["fresh", "joint"])()
    assert_equal(state.ema, some_params("joint"))
    assert_equal(state.params, some_params("joint"))


def test_what_was_saved_from_another_beginning_is_set_aside(
    whole, data, tmp_path, capsys
):
    recipe = NO_NET.with_fields(
        alignment=replace(NO_NET.system.alignment, network=False, search_limit_deg=9.0)
    )
    run = tmp_path / "run"
    Run.create(run, recipe, data)
    (run / "checkpoints" / "joint" / "2").mkdir(parents=True)
    assert train(recipe, data, run, pretrained={"joint": whole}) == 0
    assert f"--pretrained None -> {whole}" in capsys.readouterr().err
    assert (run / "checkpoints" / "joint_before_1" / "2").exists()


def test_d_and_f_of_another_form_are_refused(whole, data, tmp_path):
    other = NO_NET.with_fields(segment_input="salient_triple")
    with pytest.raises(UserError) as caught:
        train(other, data, tmp_path / "run", pretrained={"joint": whole})
    assert "the pair of D and F" in str(caught.value)
    assert "segment_input 'salient' -> 'salient_triple'" in str(caught.value)


def test_the_bundled_model_is_named_wherever_the_package_lies(
    whole, data, tmp_path, monkeypatch
):
    for place in (tmp_path / "here" / "bundled", tmp_path / "there" / "bundled"):
        shutil.copytree(whole, place)
        monkeypatch.setattr(runs, "BUNDLED", place)
        assert train(NO_NET, data, tmp_path / "run", pretrained={"joint": place}) == 0
        assert Run.open(tmp_path / "run").pretrained == {"joint": "bundled"}


def test_what_the_first_weights_have_learnt_is_not_held_out(tmp_path):
    data = write_heads(tmp_path / "data", train=4, validation=2, test=1).folder
    base = tmp_path / "base"
    assert train(NO_NET, data, base, fold=Fold(0, 3)) == 0
    begin_with = {"joint": base}
    for given in ({"fold": Fold(1, 3)}, {}):
        with pytest.raises(UserError, match=r"has learnt from head0\d.*, held out now"):
            train(NO_NET, data, tmp_path / "run", pretrained=begin_with, **given)
    assert not (tmp_path / "run" / "config.json").exists()
    same = {"fold": Fold(0, 3), "dry_run": True}
    assert train(NO_NET, data, tmp_path / "run", pretrained=begin_with, **same) == 0


def test_it_is_told_if_that_is_not_known(tmp_path, capsys):
    data = write_heads(tmp_path / "data", train=4, validation=2).folder
    base, other = tmp_path / "base", tmp_path / "other"
    assert train(NO_NET, data, base) == 0
    data.rename(other)
    write_heads(other, train=3, validation=3)
    assert train(NO_NET, other, tmp_path / "run", pretrained={"joint": base}) == 0
    assert "has learnt from is not known any more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "the same ones come again"),
        ({"seed": 7}, None),
        (
            {"stream": replace(NO_NET.stream, craniectomy=0.5)},
            "those of now differ from them by the stream's settings alone",
        ),
    ],
)
def test_it_is_told_if_the_same_heads_come_again(tmp_path, capsys, changes, told):
    base, run = tmp_path / "base", tmp_path / "run"
    assert train(NO_NET, None, base) == 0
    given = {"joint": base}
    assert train(replace(NO_NET, **changes), None, run, pretrained=given) == 0
    said = f"adn: {base} has learnt from heads drawn with seed {RECIPE.seed}, and "
    err = capsys.readouterr().err
    assert (said in err) == (told is not None)
    assert told is None or f"{said}{told}; give another --seed." in err


def test_a_training_goes_on_without_the_run_that_it_began_with(tmp_path, monkeypatch):
    data = write_heads(tmp_path / "data", train=2, validation=1).folder
    base, run = tmp_path / "base", tmp_path / "run"
    assert train(NO_NET, data, base) == 0
    monkeypatch.setattr(module, "train_stage", saved_and_stopped)
    given = {"align": base, "joint": base}
    assert train(NO_NET, data, run, pretrained=given) == 15
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"begun with --pretrained .*base, not with"):
        train(NO_NET, data, run, pretrained={"align": moved, "joint": moved})
    assert train(NO_NET, data, run) == 15


def test_what_was_saved_is_no_way_round_the_checks(tmp_path, monkeypatch):
    """A stage that is going to begin anew is checked as a new one."""
    recipe = NO_NET.with_fields(alignment=AlignmentSettings(network=False, centre=True))
    data = write_heads(tmp_path / "data", train=4, validation=2, test=1).folder
    base, own, tuned = (tmp_path / name for name in ("base", "own", "tuned"))
    first, second, given = Fold(0, 3), Fold(1, 3), {"joint": base}
    assert train(recipe, data, base, fold=first) == 0
    monkeypatch.setattr(module, "train_stage", saved_and_stopped)
    assert train(recipe, data, own, fold=second) == 15  # with weights of its own
    with pytest.raises(UserError, match="held out now"):
        train(recipe, data, own, fold=second, pretrained=given)
    assert [each.name for each in (own / "checkpoints").iterdir()] == ["joint"]
    assert train(recipe, data, tuned, fold=first, pretrained=given) == 15
    with pytest.raises(UserError, match="held out now"):
        train(recipe, data, tuned, fold=second)
    net = replace(recipe.system.segment_net, widths=(4,))
    with pytest.raises(UserError, match="does not fit this recipe"):
        train(recipe.with_fields(segment_net=net), data, tuned, fold=first)
    assert train(recipe, data, tuned, fold=first) == 15


def saved_and_stopped(stage, run, *_):
    """A stage that is interrupted after its first save."""
    (run.checkpoints(stage.name) / "1").mkdir(parents=True, exist_ok=True)
    return 15
