import json
from pathlib import Path

import pytest

from adn_jax.benchmarks import suite
from adn_jax.benchmarks.budget import Budget
from adn_jax.benchmarks.job import InputFigures
from adn_jax.benchmarks.record import Result
from adn_jax.cli.main import main
from tests.benchmarks.records import JAX, PEAKS, ours, torch

CONFIG = str(Path(__file__).parents[1] / "training" / "tiny_config.py")


@pytest.fixture
def jobs(monkeypatch):
    """Jobs that were asked for; each is answered at once."""
    asked = []

    def answer(job):
        asked.append(job)
        if job.task == "peaks":
            return Result(job, 1, PEAKS)
        ours_of = {
            "steps": ours(0.25),
            "input": InputFigures(JAX, 0.01, 0.3, 0.309),
            "budget": Budget(0.5, ()),
        }
        figures = ours_of[job.task] if job.form == "jit" else torch(0.5)
        return Result(job, 1, figures)

    monkeypatch.setattr(suite, "run_job", answer)
    return asked


def test_steps_and_inference_are_timed(jobs, capsys):
    main(["benchmark", CONFIG, "--prepare.shape", "8", "16", "16"])
    steps = [job for job in jobs if job.task == "steps"]
    assert [(job.what, job.form) for job in steps] == [
        *[("joint", "jit")] * 2,
        *[("inference", "jit")] * 2,
    ]
    assert all(job.recipe.system.prepare.shape == (8, 16, 16) for job in jobs)
    said = capsys.readouterr().out
    assert "Train step of D and F: tiny, batch 2, 8 x 16 x 16, float32" in said
    assert "Inference, I to O: tiny, batch 1" in said


@pytest.mark.parametrize(
    ("options", "forms"),
    [
        ([], ["eager", "compiled"]),
        (["--precision", "bfloat16"], ["bf16", "compiled"]),
        (["--forms", "eager"], ["eager"]),
    ],
)
def test_the_peer_has_the_recipes_precision(jobs, options, forms):
    given = ["--what", "align", "--rounds", "1", "--peer", "torch", *options]
    main(["benchmark", CONFIG, *given])
    assert [job.form for job in jobs[1:]] == [*forms, "jit"]


@pytest.mark.usefixtures("jobs")
def test_files_are_written(tmp_path):
    main(["benchmark", CONFIG, "--peer", "torch", "--out", str(tmp_path / "new")])
    content = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    assert content["comparisons"][0]["time"] == 0.5
    assert content["command"].startswith(f"adn benchmark {CONFIG} --peer torch --out")
    told = (tmp_path / "new" / "benchmark.md").read_text()
    assert "| call, median | 250 ms | 500 ms | 500 ms |" in told


def test_a_failure_of_ours_is_exit_code_2(monkeypatch, capsys):
    def answer(job):
        if job.task == "peaks":
            return Result(job, 1, PEAKS)
        return Result(job, 1, failure="it is too big.")

    monkeypatch.setattr(suite, "run_job", answer)
    with pytest.raises(SystemExit) as end:
        main(["benchmark", CONFIG])
    assert end.value.code == 2
    said = capsys.readouterr()
    assert "ours: it is too big." in said.out
    assert "adn: ours: it is too big.\n" in said.err


def test_what_was_found_before_a_stop_is_told(monkeypatch, capsys):
    def answer(job):
        if job.task == "peaks":
            return Result(job, 1, PEAKS)
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "run_job", answer)
    with pytest.raises(SystemExit) as end:
        main(["benchmark", CONFIG])
    assert end.value.code == 130
    said = capsys.readouterr()
    assert "matrix product 200 GFLOP/s" in said.out
    assert said.err == "adn: stopped before the end.\n"


@pytest.mark.usefixtures("jobs")
@pytest.mark.parametrize("name", ["batch", "repeats", "rounds", "devices"])
def test_counts_begin_at_one(name, capsys):
    with pytest.raises(SystemExit) as end:
        main(["benchmark", CONFIG, f"--{name}", "0"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said == f"adn: --{name} is 0; it has to be at least 1.\n"


def test_a_step_that_the_recipe_has_not_is_refused_before_anything_is_measured(
    jobs, capsys
):
    with pytest.raises(SystemExit) as end:
        main(["benchmark", CONFIG, "--alignment.no-network", "--what", "align"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said == "adn: --what has 'align'; tiny trains joint.\n"
    assert not jobs


def test_details_are_asked_for(jobs, capsys):
    options = ["--rounds", "1", "--input", "synthetic", "--budget", "--layers"]
    main(["benchmark", CONFIG, *options])
    steps, inference = ["steps", "input", "budget"], ["steps", "budget"]
    assert [job.task for job in jobs] == ["peaks", *steps, *inference]
    assert jobs[3].peaks == (2e11, 3e10)
    said = capsys.readouterr().out
    assert "Train step of D and F, profiled: 500 ms a call" in said
    assert "Layers of disentangle and segment" in said
