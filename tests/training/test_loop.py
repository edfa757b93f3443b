"""The loop around a stage that is cheap: one parameter drawn to the mean intensity."""

import errno
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import OptimizerSettings, StageSettings
from adn_jax.data.batches import open_split
from adn_jax.data.manifest import read_manifest
from adn_jax.distributed.mesh import device_mesh
from adn_jax.errors import UserError
from adn_jax.geometry.sampler import mirror
from adn_jax.pipeline.align import Alignment
from adn_jax.training import loop, updates
from adn_jax.training.metric_log import read_metrics
from adn_jax.training.runs import Run, read_finished
from adn_jax.training.stages import Stage
from adn_jax.training.train import search_table
from tests.training.tiny import tiny_recipe, write_heads

SETTINGS = StageSettings(
    steps=7,
    batch=2,
    validate_every=3,
    optimizer=OptimizerSettings(learning_rate=0.05),
)


def distance(params, frozen, batch):
    return params["w"] + frozen["offset"] - batch.volume.mean((1, 2, 3, 4))


def loss(params, frozen, batch, key, _):
    noise = 0.01 * jax.random.normal(key)
    total = (distance(params, frozen, batch) ** 2).mean() + noise * params["w"]
    return total, {"dice": jnp.float32(0.5)}


def evaluate(params, frozen, batch):
    return {"dice": -jnp.abs(distance(params, frozen, batch))}


RECIPE = tiny_recipe()

JOINT_SEED = RECIPE.seed + 2
"""The third stage's seed."""

STAGE = Stage("joint", SETTINGS, loss, evaluate, score="dice")


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return write_heads(tmp_path_factory.mktemp("heads"))


@pytest.fixture
def train(heads, monkeypatch):
    """Train `STAGE`, changed as asked, in the folder given."""
    monkeypatch.setattr(updates, "initial_params", lambda *_: {"w": jnp.float32(2)})

    def call(run, manifest=heads, recipe=RECIPE, begun_from="", **changes):
        pretrained = {"joint": begun_from} if begun_from else {}
        return loop.train_stage(
            replace(STAGE, **changes),
            Run(run, recipe, pretrained=pretrained),
            open_split(manifest, "train"),
            open_split(manifest, "validation"),
            {"offset": jnp.float32(0.1)},
            device_mesh(),
        )

    return call


def stop_at(step, number):
    """A loss that sends a signal to its own process at a step."""

    def stopping(params, frozen, batch, key, at):
        def send(at):
            if at == step:
                os.kill(os.getpid(), number)

        jax.debug.callback(send, at, ordered=False)
        return loss(params, frozen, batch, key, at)

    return stopping


def test_lines_scores_and_end(train, tmp_path):
    assert train(tmp_path) == 0
    lines = read_metrics(tmp_path)
    steps = {split: [x["step"] for x in lines if x["split"] == split] for split in
             ("train", "validation")}  # fmt: skip
    assert steps == {"train": [1, 2, 3, 4, 5, 6, 7], "validation": [3, 6, 7]}
    scores = {x["step"]: x["dice"] for x in lines if x["split"] == "validation"}
    finished = read_finished(tmp_path)["joint"]
    assert finished["steps"] == 7
    assert finished["dice"] == max(scores.values())
    assert scores[finished["best_step"]] == finished["dice"]


def test_weights_of_another_run_are_scored_first_and_kept_if_none_are_better(
    train, tmp_path
):
    def likes_the_first(params, *_):
        return {"dice": jnp.full(2, 1 - abs(params["w"] - 2))}

    begun = {"begun_from": "other", "evaluate": likes_the_first}
    assert train(tmp_path / "run", **begun) == 0
    lines = read_metrics(tmp_path / "run")
    scores = {x["step"]: x["dice"] for x in lines if x["split"] == "validation"}
    assert list(scores) == [0, 3, 6, 7]
    assert scores[0] == 1 > max(scores[3], scores[6], scores[7])
    finished = read_finished(tmp_path / "run")["joint"]
    assert (finished["best_step"], finished["dice"]) == (0, 1.0)
    stopping = {**begun, "loss": stop_at(1, signal.SIGTERM)}
    assert train(tmp_path / "stopped", **stopping) == signal.SIGTERM
    assert train(tmp_path / "stopped", **begun) == 0
    assert read_metrics(tmp_path / "stopped") == lines


def test_the_first_score_of_what_was_set_aside_is_not_in_the_log(train, tmp_path):
    """Nor is that of a training that was killed before it had saved anything."""
    run, given = tmp_path / "run", {"begun_from": "other"}
    stopping = {**given, "loss": stop_at(1, signal.SIGTERM)}
    assert train(run, **stopping) == signal.SIGTERM
    Run(run, RECIPE).set_aside("joint")
    assert train(run, **given) == 0
    scores = [x["step"] for x in read_metrics(run) if x["split"] == "validation"]
    assert scores == [0, 3, 6, 7]


def test_cases_that_say_nothing_do_not_count():
    assert loop.mean_of_known([0.25, math.nan, 0.75]) == 0.5
    assert math.isnan(loop.mean_of_known([math.nan]))


def test_a_value_that_no_case_has_is_not_logged_if_none_needs_to(train, tmp_path):
    def lacking(name):
        def judge(params, frozen, batch):
            values = evaluate(params, frozen, batch)
            return {**values, "score": values["dice"], name: values["dice"] * jnp.nan}

        return {"evaluate": judge, "score": "score"}

    assert train(tmp_path / "none_healthy", **lacking("unmarked")) == 0
    logged = read_metrics(tmp_path / "none_healthy")
    lines = [line for line in logged if line["split"] == "validation"]
    assert lines
    assert all({"score", "dice"} <= line.keys() for line in lines)
    assert all("unmarked" not in line for line in lines)
    with pytest.raises(UserError, match=r"validation dice is nan at step 3"):
        train(tmp_path / "all_healthy", **lacking("dice"))


def test_validation_is_the_mean_over_every_case(train, tmp_path, heads):
    train(tmp_path, settings=replace(SETTINGS, steps=1))
    validation = open_split(heads, "validation")
    means = [validation[i]["volume"].mean(dtype=float) for i in range(3)]
    (line,) = [x for x in read_metrics(tmp_path) if x["split"] == "validation"]
    w = 2 - 0.05 * (1 + 5e-4 * 2)
    expected = -np.mean([abs(w + 0.1 - mean) for mean in means])
    assert line["dice"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("step", "number"), [(1, signal.SIGTERM), (2, signal.SIGTERM), (4, signal.SIGINT)]
)
def test_stopped_and_continued_equals_undisturbed(train, tmp_path, step, number):
    train(tmp_path / "whole")
    run = tmp_path / "stopped"
    assert train(run, loss=stop_at(step, number)) == number
    assert "joint" not in read_finished(run)
    stopped_at = max(x["step"] for x in read_metrics(run))
    assert step < stopped_at < 7
    assert train(run) == 0
    whole, stopped = tmp_path / "whole", run
    assert (whole / "metrics.jsonl").read_text() == (
        stopped / "metrics.jsonl"
    ).read_text()
    assert read_finished(whole) == read_finished(stopped)


def test_finished_stage_that_was_not_noted_is_only_noted(train, tmp_path):
    train(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "stages.json").unlink()
    assert train(tmp_path) == 0
    assert read_finished(tmp_path)["joint"]["steps"] == 7
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_stop_rule_ends_early(train, tmp_path):
    patient = replace(SETTINGS, steps=50, patience_epochs=2)
    assert train(tmp_path, settings=patient) == 0
    # 5 cases in batches of 2 are 3 steps an epoch; the first touches the warm start
    assert read_finished(tmp_path)["joint"]["steps"] == 12


def breaking_from(first, last):
    """A loss that is no number in the updates `first` to `last` (from 0)."""

    def breaking(params, frozen, batch, key, step):
        total, values = loss(params, frozen, batch, key, step)
        broken = (step >= first) & (step <= last)
        return jnp.where(broken, jnp.nan, 1.0) * total, values

    return breaking


def test_an_update_that_is_no_number_is_skipped(train, tmp_path, heads, capsys):
    assert train(tmp_path, loss=breaking_from(3, 4)) == 0
    lines = [x for x in read_metrics(tmp_path) if x["split"] == "train"]
    assert [x["step"] for x in lines if x.get("skipped")] == [4, 5]
    assert "loss" not in lines[3]
    assert all("skipped" not in x and "loss" in x for x in lines[5:])
    cases = names_of_step(open_split(heads, "train"), 3)
    said = " ".join(capsys.readouterr().out.split())
    assert f"joint step 4: skipped, for the loss or its gradient is not finite ({', '.join(cases)})" in said  # fmt: skip # noqa: E501


def test_too_many_skipped_updates_in_a_row(train, tmp_path):
    patient = replace(SETTINGS, steps=40, validate_every=40)
    message = (
        r"not finite in steps 4 to \d+ of stage 'joint', with the cases head00, .*"
        r"head04; .* saved.*--joint\.optimizer\.learning-rate"
    )
    with pytest.raises(UserError, match=message):
        train(tmp_path, loss=breaking_from(3, 40), settings=patient)
    before = read_metrics(tmp_path)
    assert len(before) < 40
    # what was saved is the state before the first of them: the next updates are as good
    assert train(tmp_path, settings=patient) == 0
    assert all(np.isfinite(x["loss"]) for x in read_metrics(tmp_path)[-2:-1])


@pytest.mark.parametrize("way", ["emptied", "cut", "metadata", "optimizer", "spoilt"])
def test_a_damaged_newest_checkpoint_is_set_aside(train, tmp_path, capsys, way):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(whole)
    assert train(run, loss=stop_at(4, signal.SIGTERM)) == signal.SIGTERM
    folder = run / "checkpoints" / "joint"
    newest = max(int(path.name) for path in folder.iterdir())
    damage(folder / str(newest), way)
    assert train(run) == 0
    aside = folder.with_name("joint_damaged") / str(newest)
    assert aside.is_dir()
    said = " ".join(capsys.readouterr().err.split())
    assert f"checkpoint {newest} of {folder} is damaged; it is now {aside}" in said
    logs = [(each / "metrics.jsonl").read_text() for each in (whole, run)]
    assert logs[0] == logs[1]


def damage(checkpoint, way):
    """Spoil a checkpoint as disks and people do."""
    files = sorted(checkpoint.rglob("*"), key=lambda path: path.stat().st_size)
    largest = [path for path in files if path.is_file()][-1]
    match way:
        case "emptied":
            largest.write_bytes(b"")
        case "cut":
            os.truncate(largest, largest.stat().st_size // 2)
        case "spoilt":
            content = bytearray(largest.read_bytes())
            content[len(content) // 3 :: 7] = bytes(
                len(content[len(content) // 3 :: 7])
            )
            largest.write_bytes(content)
        case "metadata":
            (checkpoint / "params" / "_METADATA").unlink()
        case "optimizer":
            shutil.rmtree(checkpoint / "optimizer")


def test_checkpoint_of_another_recipe(train, tmp_path):
    train(tmp_path, loss=stop_at(4, signal.SIGTERM))
    other = replace(RECIPE, align=replace(RECIPE.align, steps=9))
    with pytest.raises(UserError, match=r"joint was trained .*align\.steps 4 -> 9"):
        train(tmp_path, recipe=other)
    assert train(tmp_path) == 0


def test_where_every_checkpoint_is_damaged_nothing_begins_anew(train, tmp_path):
    train(tmp_path, loss=stop_at(4, signal.SIGTERM))
    for checkpoint in (tmp_path / "checkpoints" / "joint").iterdir():
        damage(checkpoint, "metadata")
    with pytest.raises(UserError, match=r"could not be read at step .*restore it"):
        train(tmp_path)


@pytest.mark.parametrize("way", ["cut", "deleted", "refused"])
def test_a_case_that_cannot_be_read_ends_with_the_state_saved(
    train, tmp_path, heads, way
):
    train(tmp_path / "whole")
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(heads.folder, data)
    split = open_split(heads, "train")
    early = {name for step in (0, 1) for name in names_of_step(split, step)}
    (late,) = set(split.names) - early
    volume = data / late / "ct.nii"
    with pytest.MonkeyPatch.context() as patch:
        make_unreadable(volume, way, patch)
        with pytest.raises(UserError, match=late):
            train(run, read_manifest(data))
    assert [x["step"] for x in read_metrics(run)] == [1, 2]
    shutil.copy(heads.folder / late / "ct.nii", volume)
    assert train(run, read_manifest(data)) == 0
    logs = [
        (tmp_path / each / "metrics.jsonl").read_text() for each in ("whole", "run")
    ]
    assert logs[0] == logs[1]


def make_unreadable(path, way, patch):
    if way == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif way == "deleted":
        path.unlink()
    else:
        patch.setattr(Path, "open", refusing(path))


def refusing(refused):
    """`Path.open` where the system does not give a file."""
    usual = Path.open

    def open_others(path, *arguments, **options):
        if path == refused:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return usual(path, *arguments, **options)

    return open_others


def names_of_step(split, step):
    return split.names_in(SETTINGS.batch, JOINT_SEED, step)


def test_gradient_that_is_no_number(train, tmp_path):
    def breaking(params, frozen, batch, key, step):
        total, values = loss(params, frozen, batch, key, step)
        root = jnp.sqrt(jnp.where(step == 1, 0.0, 1.0) * params["w"])
        return total + root, values

    assert train(tmp_path, loss=breaking) == 0
    second = read_metrics(tmp_path)[1]
    assert (second["step"], second["skipped"]) == (2, 1.0)
    assert "loss" in second
    assert "gradient_norm" not in second


def test_batch_has_to_divide_over_the_devices(train, tmp_path):
    with pytest.raises(UserError, match=r"joint\.batch is 3.*set it to 2 or 4"):
        train(tmp_path, settings=replace(SETTINGS, batch=3))


def test_micro_batches_are_computed_one_by_one(train, tmp_path):
    sizes = []

    def counting(params, frozen, batch, key, step):
        sizes.append(len(batch.case))
        return loss(params, frozen, batch, key, step)

    train(tmp_path, loss=counting, settings=replace(SETTINGS, batch=4, micro_batches=2))
    assert set(sizes) == {2}


def test_search_table_makes_every_training_head_upright(heads):
    recipe = tiny_recipe()
    split = open_split(heads, "train")
    table = search_table(recipe, split, 2, device_mesh())
    assert table.rotation.shape == table.translation.shape == (8, 3)
    assert not table[5:].rotation.any()
    assert not table[5:].translation.any()
    volume = jnp.stack([split[i]["volume"] for i in range(5)])[..., None]
    alignment = Alignment.of(table[:5], recipe.system)
    aligned = jax.jit(Alignment.warp)(alignment, volume)
    before = jnp.abs(volume - mirror(volume)).mean()
    assert jnp.abs(aligned - mirror(aligned)).mean() < 1.1 * before
    assert jnp.abs(jnp.rad2deg(table[:5].in_plane_angle)).max() <= 60
