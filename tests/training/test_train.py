import errno
import fcntl
import json
import linecache
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from adn_jax.config import ReadSettings, StageSettings
from adn_jax.data.manifest import Fold, read_manifest
from adn_jax.errors import UserError
from adn_jax.io.files import only_one
from adn_jax.prepare import dataset
from adn_jax.training import train as module
from adn_jax.training.begin import check_same_work
from adn_jax.training.runs import Run
from adn_jax.training.train import train
from tests.training.made_up import no_update
from tests.training.tiny import drop_volume, tiny_recipe, write_heads

RECIPE = tiny_recipe()


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    """Stages only leave their names."""
    started, updates = [], {}

    def start(stage, _run, training, validation, frozen, _mesh, update):
        assert update is updates[stage.name]
        started.append((stage.name, len(training), len(validation), sorted(frozen)))
        return 0

    def compile_update(stage, *_):
        return updates.setdefault(stage.name, no_update())

    monkeypatch.setattr(module, "train_stage", start)
    monkeypatch.setattr(module, "compile_update", compile_update)
    monkeypatch.setattr(module, "search_table", lambda *_: "table")
    return started


@pytest.fixture
def data(tmp_path):
    return write_heads(tmp_path / "data", train=2, validation=2).folder


def test_stages_in_order_on_their_splits(no_training, data, tmp_path):
    assert train(RECIPE, data, tmp_path / "run") == 0
    assert no_training == [("align", 2, 2, ["search"]), ("joint", 2, 2, [])]
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["recipe"]["name"] == "tiny"
    assert content["data"] == str(data)
    assert "jax" in content["versions"]


def test_a_signal_ends_it(monkeypatch, data, tmp_path):
    monkeypatch.setattr(module, "train_stage", lambda *_: 15)
    assert train(RECIPE, data, tmp_path / "run") == 15


def test_raw_data_is_prepared_into_the_run(monkeypatch, no_training, tmp_path, capsys):
    asked = []

    def prepare(raw, out, settings, workers, reading, learnt_by):
        assert learnt_by == ""
        asked.append((raw, settings, workers, reading))
        manifest = write_heads(out, train=2, validation=1, test=1)
        return replace(manifest, failed={"one": "no brain was found."})

    monkeypatch.setattr(dataset, "prepare_dataset", prepare)
    (tmp_path / "raw").mkdir()
    train(RECIPE, tmp_path / "raw", tmp_path / "run", workers=3)
    assert capsys.readouterr().err == "adn: one is left out: no brain was found.\n"
    assert asked == [(tmp_path / "raw", RECIPE.system.prepare, 3, None)]
    assert [name for name, *_ in no_training] == ["align", "joint"]
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["data"] == str(tmp_path / "run" / "prepared")


def test_missing_data(tmp_path):
    with pytest.raises(UserError, match=r"data folder .*nowhere does not exist"):
        train(RECIPE, tmp_path / "nowhere", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_among_the_data_is_refused(data):
    with pytest.raises(UserError, match="is the folder of the data itself"):
        train(RECIPE, data, data / "absent" / "..")
    assert not (data / "config.json").exists()


def test_data_prepared_otherwise(data, tmp_path):
    finer = replace(RECIPE.system.prepare, spacing_mm=(5.0, 1.2, 1.2))
    with pytest.raises(UserError, match=r"other settings .*spacing_mm \(8\.0, 10\.0"):
        train(RECIPE.with_fields(prepare=finer), data, tmp_path / "run")


def test_auto_takes_whatever_tissue_was_prepared(data, tmp_path):
    manifest = read_manifest(data)
    atlas = replace(manifest.settings, tissue="atlas")
    replace(manifest, settings=atlas).write()
    assert RECIPE.system.prepare.tissue == "auto"
    assert train(RECIPE, data, tmp_path / "run") == 0
    given = RECIPE.with_fields(prepare=replace(RECIPE.system.prepare, tissue="given"))
    with pytest.raises(UserError, match=r"other settings .*tissue"):
        train(given, data, tmp_path / "other")


def finish(run, *stages):
    """Note stages as finished, as their training would."""
    for stage in stages:
        Run.open(run).mark_finished(stage, {"steps": 4, "best_step": 2})


def save_something(run, stage):
    """A checkpoint by its name, as a stage that was stopped leaves one."""
    (run / "checkpoints" / stage / "2").mkdir(parents=True)


def begun_with(run):
    return json.loads((run / "config.json").read_text())["recipe"]


def test_a_run_that_another_process_began_meanwhile_is_kept(
    data, tmp_path, monkeypatch
):
    """The folder is looked at before the lock is held, and again behind it."""

    @contextmanager
    def after_another(folder):
        with only_one(folder):
            Run.create(folder, replace(RECIPE, seed=1), data)
            finish(folder, "align")
            yield

    monkeypatch.setattr(module, "only_one", after_another)
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"other settings \(seed 1 -> 0\)"):
        train(RECIPE, data, run)
    assert Run.open(run).recipe.seed == 1


def test_another_recipe_in_the_folder(data, tmp_path):
    train(RECIPE, data, tmp_path / "run")
    finish(tmp_path / "run", "align")
    with pytest.raises(
        UserError, match=r"other settings \(seed 0 -> 1\); choose anoth"
    ):
        train(replace(RECIPE, seed=1), data, tmp_path / "run")


def test_what_is_computed_again_may_change_behind_a_finished_stage(data, tmp_path):
    train(RECIPE, data, tmp_path / "run")
    finish(tmp_path / "run", "align", "joint")
    assert train(RECIPE.with_fields(remat="blocks"), data, tmp_path / "run") == 0


def test_a_run_without_a_finished_stage_may_change(data, tmp_path, capsys):
    run = tmp_path / "run"
    train(RECIPE, data, run)
    larger = replace(RECIPE, align=replace(RECIPE.align, batch=4), seed=1)
    with pytest.raises(UserError, match=r"align\.batch is 4.* set --align\.batch 2"):
        train(larger, data, run)
    assert begun_with(run)["seed"] == 0
    train(replace(RECIPE, seed=1), data, run, fold=Fold(0, 2))
    assert begun_with(run)["seed"] == 1
    assert capsys.readouterr().err == ""


def test_what_was_saved_otherwise_is_set_aside(data, tmp_path, capsys):
    """Nothing that was trained is lost, and the stage does not go on from it."""
    run, saved = tmp_path / "run", tmp_path / "run" / "checkpoints"
    for seed in (0, 1, 2):
        train(replace(RECIPE, seed=seed), data, run)
        save_something(run, "align")
    assert {path.name for path in saved.iterdir()} == {
        *("align", "align_before_1", "align_before_2")
    }
    said = capsys.readouterr().err
    assert "(seed 0 -> 1) and begins anew" in said
    assert f"what it saved is now {saved / 'align_before_2'}" in said


def test_what_no_finished_stage_depends_on_may_change(
    data, tmp_path, capsys, monkeypatch
):
    """As more micro-batches, after the joint stage ran out of memory."""
    monkeypatch.setattr(Run, "params", lambda *_: "weights")
    run = tmp_path / "run"
    train(RECIPE, data, run)
    finish(run, "align")
    save_something(run, "joint")
    smaller = replace(RECIPE, joint=replace(RECIPE.joint, micro_batches=1, batch=4))
    with pytest.raises(UserError, match=r"joint\.batch is 4, but the split 'train'"):
        train(smaller, data, run)
    shorter = replace(RECIPE, joint=replace(RECIPE.joint, steps=6))
    train(shorter, data, run)
    assert begun_with(run)["joint"]["steps"] == 6
    assert "'joint' of " in capsys.readouterr().err
    assert not (run / "checkpoints" / "joint").exists()


def test_settings_of_parts_that_a_system_lacks_do_not_count(data, tmp_path):
    alignment = replace(RECIPE.system.alignment, network=False)
    without = RECIPE.with_fields(alignment=alignment)
    train(without, data, tmp_path / "run")
    finish(tmp_path / "run", "joint")
    other = replace(without, align=replace(RECIPE.align, batch=16))
    other = other.with_fields(
        alignment_net=replace(RECIPE.system.alignment_net, widths=(4,))
    )
    train(other, data, tmp_path / "run")
    larger = replace(other, joint=replace(RECIPE.joint, batch=4))
    with pytest.raises(UserError, match=r"other settings \(joint\.batch 2 -> 4\)"):
        train(larger, data, tmp_path / "run")


@pytest.mark.parametrize(
    ("cases", "batch", "said"),
    [
        (5, 16, "has 5 cases; set --align.batch 4, or name more"),
        (1, 2, "has 1 case; set --align.batch 1 and --align.micro-batches 1, on one"),
    ],
)
def test_more_cases_to_a_batch_than_there_are(tmp_path, cases, batch, said):
    data = write_heads(tmp_path / "data", train=cases, validation=1).folder
    recipe = replace(RECIPE, align=replace(RECIPE.align, batch=batch))
    with pytest.raises(UserError) as error:
        train(recipe, data, tmp_path / "run")
    assert said in str(error.value)
    assert not (tmp_path / "run" / "config.json").exists()


def without_infarct(data, *names):
    manifest = read_manifest(data)
    replace(manifest, lacking={"infarct": names}).write()


@pytest.mark.parametrize("score_healthy", [False, True])
def test_cases_without_infarct_train_but_choose_weights_only_where_they_count(
    no_training, data, tmp_path, score_healthy
):
    without_infarct(data, "head00", "head02")
    train(replace(RECIPE, score_healthy=score_healthy), data, tmp_path / "run")
    judges = 2 if score_healthy else 1
    assert no_training == [("align", 2, 2, ["search"]), ("joint", 2, judges, [])]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_without_any_infarct_is_refused(no_training, data, tmp_path, split):
    without_infarct(data, *read_manifest(data).splits[split])
    with pytest.raises(
        UserError, match=rf"no label of the split '{split}' of .*2 cases"
    ):
        train(RECIPE, data, tmp_path / "run")
    assert no_training == []


def test_a_dry_run_checks_everything_and_writes_nothing(no_training, data, tmp_path):
    before = sorted(data.rglob("*"))
    assert train(RECIPE, data, tmp_path / "run", dry_run=True) == 0
    without_infarct(data, "head00", "head01")
    with pytest.raises(UserError, match="no label of the split 'train'"):
        train(RECIPE, data, tmp_path / "run", dry_run=True)
    (tmp_path / "raw").mkdir()
    assert train(RECIPE, tmp_path / "raw", tmp_path / "run", dry_run=True) == 0
    assert no_training == []
    assert not (tmp_path / "run").exists()
    assert sorted(data.rglob("*")) == before


def test_options_of_raw_data_are_not_ignored(data, tmp_path):
    reading = ReadSettings(hu_range=(0.0, 80.0))
    for given in (data, None):
        with pytest.raises(UserError, match="--hu-range is of raw data"):
            train(RECIPE, given, tmp_path / "run", reading=reading)
        with pytest.raises(UserError, match="--workers is of raw data"):
            train(RECIPE, given, tmp_path / "run", workers=2)
    assert not (tmp_path / "run").exists()


def test_other_labels_than_at_the_start(data, tmp_path):
    read_manifest(data).with_checksums().write()
    train(RECIPE, data, tmp_path / "run")
    finish(tmp_path / "run", "align")
    trained = read_manifest(data).splits["train"][0]
    about = data / trained / "case.json"
    content = json.loads(about.read_text())
    content["sha256"]["lesion.nii.gz"] = "of another label"
    about.write_text(json.dumps(content))
    read_manifest(data).with_checksums().write()
    with pytest.raises(UserError, match="begun with other scans or labels"):
        train(RECIPE, data, tmp_path / "run")


def test_other_cases_than_at_the_start(data, tmp_path):
    train(RECIPE, data, tmp_path / "run")
    finish(tmp_path / "run", "align")
    manifest = read_manifest(data)
    splits = {**manifest.splits, "train": manifest.splits["train"][::-1]}
    replace(manifest, splits=splits).write()
    with pytest.raises(UserError, match="begun with other cases or splits"):
        train(RECIPE, data, tmp_path / "run")


def test_a_fold_validates_in_turn(no_training, data, tmp_path):
    one, other = Fold(1, 2), Fold(0, 2)
    train(RECIPE, data, tmp_path / "run", fold=one)
    assert no_training[0] == ("align", 2, 2, ["search"])
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["fold"] == "1/2"
    folded = read_manifest(data).with_fold(one)
    assert content["cases_sha256"] == folded.digest
    assert folded.splits != read_manifest(data).splits
    train(RECIPE, data, tmp_path / "run", fold=one)
    finish(tmp_path / "run", "align")
    with pytest.raises(UserError, match=r"with --fold 1/2, now it is 0/2"):
        train(RECIPE, data, tmp_path / "run", fold=other)
    with pytest.raises(UserError, match=r"with --fold 1/2, now there is none"):
        train(RECIPE, data, tmp_path / "run")
    train(RECIPE, data, tmp_path / "plain")
    finish(tmp_path / "plain", "align")
    with pytest.raises(UserError, match=r"begun without --fold, now it is 1/2"):
        train(RECIPE, data, tmp_path / "plain", fold=one)
    with pytest.raises(UserError, match=r"0/5, but .* only 4 cases"):
        train(RECIPE, data, tmp_path / "many", fold=Fold(0, 5))


def test_imported_run_has_nothing_to_train(no_training, data, tmp_path):
    Run.create(tmp_path / "run", RECIPE)
    done = {name: {"steps": 0, "best_step": 0} for name in ("align", "joint")}
    (tmp_path / "run" / "stages.json").write_text(json.dumps(done))
    assert train(RECIPE, data, tmp_path / "run") == 0
    assert no_training == []


def test_missing_tissue_maps(data, tmp_path):
    drop_volume(data, "tissue", "head00")
    untaught = replace(RECIPE.joint_loss, tissue=0.0)
    recipe = replace(RECIPE, tissue_source="none", joint_loss=untaught)
    train(recipe, data, tmp_path / "without")
    with pytest.raises(UserError, match=r"head00 has no tissue\.nii\.gz"):
        train(RECIPE, data, tmp_path / "with")


def test_labels_of_every_stage_are_looked_for_before_the_first(
    no_training, data, tmp_path
):
    drop_volume(data, "lesion", "head00")
    with pytest.raises(UserError, match=r"head00 has no lesion\.nii\.gz"):
        train(RECIPE, data, tmp_path / "run")
    assert no_training == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"joint_loss": replace(RECIPE.joint_loss, extra=("no_module:term:0.5",))},
            "the module 'no_module' of the loss term no_module:term cannot be imported",
        ),
        (
            {"prepare": replace(RECIPE.system.prepare, tissue="none")},
            "prepare.tissue is none, but tissue_source maps needs tissue maps",
        ),
        (
            {"align_loss": replace(RECIPE.align_loss, extra=("math",))},
            "the loss term 'math' has another form",
        ),
        (
            {"segment_net": replace(RECIPE.system.segment_net, widths=(2,) * 6)},
            "a volume of 16 x 16 x 16 voxels .* does not fit a network of 6 levels",
        ),
        (
            {"disentangle_net": replace(RECIPE.system.disentangle_net, widths=(2, 5))},
            "5 feature maps do not divide into 2 groups",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_before_any_work(
    data, tmp_path, changes, message
):
    with pytest.raises(UserError, match=message):
        train(RECIPE.with_fields(**changes), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_stage_without_steps(data, tmp_path):
    with pytest.raises(UserError, match=r"align\.steps is 0.*set --align\.steps"):
        train(replace(RECIPE, align=StageSettings()), data, tmp_path / "run")


def test_batch_that_does_not_divide(data, tmp_path):
    wrong = replace(RECIPE, joint=replace(RECIPE.joint, batch=3))
    with pytest.raises(UserError, match=r"joint\.batch is 3.*2 devices.*2 or 4"):
        train(wrong, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folder_in_use(data, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with (run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing into"):
            train(RECIPE, data, run)
    assert train(RECIPE, data, run) == 0


def test_run_folder_that_cannot_be_made(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        train(RECIPE, data, tmp_path / "file" / "run")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="only on Linux")
def test_run_folder_that_is_read_only(data):
    with pytest.raises(UserError, match=r"/sys/kernel could not be written \(.*\)"):
        train(RECIPE, data, Path("/sys/kernel"))


def test_full_disk_while_training(monkeypatch, data, tmp_path):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "train_stage", fail)
    message = r"run could not be .* written \(No space left on device\); free space"
    with pytest.raises(UserError, match=message):
        train(RECIPE, data, tmp_path / "run")


def test_what_cannot_be_read_while_training_is_named(monkeypatch, data, tmp_path):
    def fail(*_):
        raise OSError(errno.ESTALE, "Stale file handle", "/nfs/heads")

    monkeypatch.setattr(module, "train_stage", fail)
    message = r"^/nfs/heads could not be read or written \(Stale file handle\);"
    with pytest.raises(UserError, match=message):
        train(RECIPE, data, tmp_path / "run")


def test_preparation_knows_what_has_learnt_from_it(monkeypatch, tmp_path):
    raw, run = tmp_path / "raw", tmp_path / "run"
    raw.mkdir()
    asked = []

    def prepare(_raw, out, *_, learnt_by):
        asked.append(learnt_by)
        return write_heads(out, train=2, validation=1)

    monkeypatch.setattr(dataset, "prepare_dataset", prepare)
    assert train(RECIPE, raw, run) == 0
    taken = {"steps": 4, "best_step": 4, "taken_from": "elsewhere"}
    Run.open(run).mark_finished("joint", taken)
    assert train(RECIPE, raw, run) == 0
    Run.open(run).mark_finished("joint", {"steps": 4, "best_step": 4})
    assert train(RECIPE, raw, run) == 0
    assert asked == ["", "", str(run)]


def test_what_another_process_was_given_is_the_same(data, tmp_path):
    assert train(RECIPE, data, tmp_path / "run") == 0
    run, here = Run.open(tmp_path / "run"), read_manifest(data)
    check_same_work(run, RECIPE, here, None)
    others = write_heads(tmp_path / "others", train=3, validation=1)
    for recipe, cases, fold, said in (
        (replace(RECIPE, seed=1), here, None, "seed 0 -> 1"),
        (RECIPE, others, None, "other cases or splits"),
        (RECIPE, here, Fold(0, 2), "fold None -> 0/2"),
    ):
        with pytest.raises(UserError, match=said):
            check_same_work(run, recipe, cases, fold)


@pytest.fixture
def own_term(tmp_path, monkeypatch):
    """Write a loss term of one's own, as another process will read it."""
    monkeypatch.chdir(tmp_path)

    def write(factor):
        linecache.clearcache()
        sys.modules.pop("own_terms_here", None)
        text = f"def small(parts):\n    return {factor} * parts.pathological.mean()\n"
        (tmp_path / "own_terms_here.py").write_text(text)

    return write


def test_the_code_of_a_loss_term_belongs_to_the_run(own_term, data, tmp_path, capsys):
    run = tmp_path / "run"
    extra = ("own_terms_here:small",)
    recipe = replace(RECIPE, joint_loss=replace(RECIPE.joint_loss, extra=extra))
    own_term(0.1)
    for _ in range(2):
        assert train(recipe, data, run) == 0
    save_something(run, "joint")
    own_term(0.25)
    assert train(recipe, data, run) == 0
    said = capsys.readouterr().err
    assert "(the code of own_terms_here:small) and begins anew" in said
    Run.open(run).mark_finished("joint", {"steps": 4, "best_step": 4})
    assert train(recipe, data, run) == 0
    own_term(0.5)
    with pytest.raises(
        UserError, match=r"other settings \(the code of own_terms_here:"
    ):
        train(recipe, data, run)
