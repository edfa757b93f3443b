"""The real `train.py` with its data and its run in an object store."""

import signal

import pytest

from adn_jax.cli.main import main
from adn_jax.errors import UserError
from adn_jax.io.files import read_json
from adn_jax.io.paths import to_place
from adn_jax.prepare.export import pack_dataset
from adn_jax.training.checkpoints import open_checkpoints
from adn_jax.training.metric_log import METRICS
from adn_jax.training.runs import Run, read_finished
from tests.hold import wait_until
from tests.training.test_survival import INTERVAL, held
from tests.training.tiny import tiny_recipe


@pytest.mark.slow
def test_a_run_in_a_store_is_that_of_a_disk(
    heads, whole_run, start_training, new_hold, gcs
):
    place = to_place(f"{gcs.bucket}/training")
    run = place / "run"
    pack_dataset(heads, place / "packed", cases_per_shard=3)

    def start(**program):
        return start_training(run, data=place / "packed", **program, **gcs.variables)

    hold = new_hold()
    process = start(program=held(hold, "logged", "joint", INTERVAL + 1))
    hold.until_arrived(process)
    saved = run / "checkpoints" / "joint" / str(INTERVAL) / "commit_success.txt"
    wait_until(saved.exists, process)
    process.send_signal(signal.SIGTERM)
    hold.release()
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "joint" not in read_finished(run)

    checkpoints = run / "checkpoints" / "joint"
    newest = max((each.name for each in checkpoints.iterdir()), key=int)
    (checkpoints / newest / "params" / "_METADATA").unlink()

    process = start()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert f"adn: checkpoint {newest} of {checkpoints} is damaged" in output
    assert (run / "checkpoints" / "joint_damaged" / newest / "optimizer").is_dir()
    assert (run / METRICS).read_bytes() == (whole_run / METRICS).read_bytes()
    assert read_finished(run) == read_finished(whole_run)
    assert len(list((run / "tensorboard" / "joint").iterdir())) == 2

    main(["evaluate", str(run), "--split", "validation"])
    folder = run / "evaluation" / "validation"
    assert read_json(folder / "summary.json")["data"] == str(place / "packed")
    assert "<img" in (folder / "report.html").read_text()
    assert len(list((folder / "cases").iterdir())) == 3


def test_a_run_in_s3_is_refused(s3, heads, capsys):
    config = "tests/training/tiny_config.py"
    with pytest.raises(SystemExit) as end:
        main(["train", config, "--data", str(heads), "--run", f"{s3.bucket}/run"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "of the object stores checkpoints can be written to gs:// alone" in said
    with pytest.raises(UserError, match="of the object stores they can be in gs://"):
        open_checkpoints(to_place(f"{s3.bucket}/run"), "min").__enter__()


def test_a_first_save_that_was_cut_short_is_no_checkpoint(gcs):
    run = Run.create(to_place(f"{gcs.bucket}/begun"), tiny_recipe())
    step = run.checkpoints("joint") / "2"
    step.mkdir(parents=True)
    (step / "params").write_text("half")
    assert not run.has_checkpoints("joint")
    (step / "commit_success.txt").write_text("whole")
    assert run.has_checkpoints("joint")
