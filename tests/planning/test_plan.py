import json

import pytest

from adn_jax.cli.main import main
from adn_jax.planning import plan as planning
from adn_jax.planning.program import CompiledStep, Exchange, PartCycles
from adn_jax.planning.worker import Answer, Refusal
from adn_jax.runtime.capacity import CompiledMemory, compiler_wants
from adn_jax.runtime.jobs import GIB
from tests.cli.test_benchmark import CONFIG

GRID = ["--prepare.shape", "8", "16", "16", "--precision", "bfloat16"]


def step(gib, cycles=8_000_000, copies=1_000_000):
    maps = int(gib * GIB)
    return CompiledStep(
        memory=CompiledMemory(1000, 100, 100, maps),
        compile_s=2.0,
        parts=(PartCycles("segment", cycles, copies), PartCycles("align", 0, 0)),
        exchanges=(Exchange("all-reduce", 2, 5_000_000),),
        map_copy_bytes=3_000_000_000,
        channels_first=1,
        convolutions=4,
    )


@pytest.fixture
def compiler(monkeypatch):
    """Answers in the place of real compilers; the jobs that they were asked."""
    asked = []

    def compile_apart(job, target):
        asked.append(job)
        return compiler_answer(job, target)

    monkeypatch.setattr(planning, "compile_apart", compile_apart)
    monkeypatch.setattr("adn_jax.cli.plan.check_compiler", lambda _: None)
    return asked


def compiler_answer(job, target):
    """All but the joint step fits; that does with less than four cases at once."""
    settings = getattr(job.recipe, job.stage)
    if target.chip.platform == "gpu":
        return Answer(step=step(80 if settings.batch == 8 else 2, cycles=0))
    at_once = settings.batch // settings.micro_batches
    if job.stage == "joint" and at_once >= 4 and job.recipe.system.remat == "auto":
        return Answer(refusal=Refusal(20 * GIB, 16 * GIB))
    return Answer(step=step(8, cycles=8_000_000 * at_once))


def test_a_step_that_does_not_fit_is_changed_until_it_does(compiler, capsys, tmp_path):
    out = tmp_path / "plan"
    main(
        [
            *("plan", CONFIG, *GRID, "--joint.batch", "4", "--target", "v5e:1x1"),
            *("--stages", "joint", "--out", str(out)),
        ]
    )
    shown = capsys.readouterr().out
    trials = json.loads((out / "plan.json").read_text())
    options = [trial["options"] for trial in trials]
    assert options[0] == ""
    assert len(options) == len(compiler) > 1
    assert "--joint.micro-batches 2" in options
    assert [trial["fits"] for trial in trials[:2]] == [False, True]
    assert "joint: fits with --" in shown.replace("\n", " ")
    assert (out / "plan.md").read_text().count("v5e:1x1: TPU v5e, 16.00 GiB each") == 1


def test_the_same_command_compiles_nothing_again(compiler, tmp_path):
    command = ["plan", CONFIG, *GRID, "--target", "v5e:1x1", "--out", str(tmp_path)]
    main(command)
    before = len(compiler)
    shown = (tmp_path / "plan.md").read_bytes()
    main(command)
    assert len(compiler) == before > 0
    assert (tmp_path / "plan.md").read_bytes() == shown


def test_calls_side_by_side_lose_nothing_of_each_other(compiler, monkeypatch, tmp_path):
    def plan(*targets):
        out = ["--stages", "align", "--out", str(tmp_path)]
        main(["plan", CONFIG, *GRID, "--target", *targets, *out])

    answer_at_once = planning.compile_apart

    def meanwhile(job, target):
        monkeypatch.setattr(planning, "compile_apart", answer_at_once)
        plan("h200")
        return answer_at_once(job, target)

    monkeypatch.setattr(planning, "compile_apart", meanwhile)
    plan("v5e:1x1")
    assert len(compiler) == 2
    plan("v5e:1x1", "h200")
    assert len(compiler) == 2


def test_other_versions_compile_again(compiler, monkeypatch, tmp_path):
    command = ["plan", CONFIG, *GRID, "--target", "v5e:1x1", "--out", str(tmp_path)]
    main(command)
    before = len(compiler)
    monkeypatch.setattr(planning, "installed", lambda: [("jax", "0.0")])
    main(command)
    assert len(compiler) == 2 * before


@pytest.mark.usefixtures("compiler")
def test_where_nothing_fits_the_exit_code_says_so(monkeypatch, capsys):
    refused = Answer(refusal=Refusal(0, 16 * GIB))
    monkeypatch.setattr(planning, "compile_apart", lambda *_: refused)
    with pytest.raises(SystemExit) as stop:
        main(["plan", CONFIG, *GRID, "--target", "v5e:1x1", "--stages", "joint"])
    assert stop.value.code == 1
    assert "nothing that was tried fits" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("compiler")
def test_cards_are_told_their_layouts(capsys):
    main(["plan", CONFIG, *GRID, "--target", "h200", "--stages", "joint"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 of 4 convolutions have their channels first" in shown
    assert "write 3.00 GB a step" in shown
    assert "cycles" not in shown.split("joint:")[0]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--stages", "segment"], "--stages has 'segment'; tiny trains"),
        (
            ["--cases-per-device", "0"],
            "--cases-per-device is 0; it wants a number from 1 on",
        ),
        (["--target", "v5"], "--target 'v5' is unknown"),
    ],
)
def test_mistakes_are_one_sentence(options, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", CONFIG, *GRID, "--target", "v5e:1x1", *options])
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


def test_cases_per_device_make_the_batch(compiler):
    main(
        [
            *("plan", CONFIG, *GRID, "--target", "v5e:2x2", "--cases-per-device", "3"),
            *("--spatial-shards", "2", "--stages", "align"),
        ]
    )
    assert compiler[0].recipe.align.batch == 6


def test_cases_per_device_go_by_each_target(compiler):
    main(
        [
            *("plan", CONFIG, *GRID, "--target", "v5e:4x4", "h200"),
            *("--cases-per-device", "1", "--stages", "align"),
        ]
    )
    assert [job.recipe.align.batch for job in compiler] == [16, 1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--joint.batch", "6"], "v5e:4x4: joint.batch is 6, which does not divide"),
        (["--spatial-shards", "3"], "does not divide the 16 devices of v5e:4x4"),
    ],
)
def test_what_cannot_be_divided_is_said_before_anything_is_compiled(
    options, sentence, compiler, capsys
):
    batch = ["--align.batch", "16", "--target", "v5e:4x4"]
    with pytest.raises(SystemExit) as stop:
        main(["plan", CONFIG, *GRID, *batch, *options])
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not compiler


@pytest.mark.usefixtures("compiler")
def test_an_error_of_the_compiler_is_one_sentence(monkeypatch, capsys):
    error = Answer(error="--target v5e:2x2 is no slice that the compiler knows")
    monkeypatch.setattr(planning, "compile_apart", lambda *_: error)
    options = ["--stages", "joint", "--cases-per-device", "1"]
    with pytest.raises(SystemExit) as stop:
        main(["plan", CONFIG, *GRID, "--target", "v5e:2x2", *options])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said == f"adn: joint on v5e:2x2: {error.error}\n"


def test_what_a_compiler_wants_is_read():
    message = "RESOURCE_EXHAUSTED: ... Used 27.50G of 15.75G hbm. Exceeded by 11.75G"
    found = compiler_wants(message)
    assert found == (round(27.5 * GIB), round(15.75 * GIB))
    assert compiler_wants("RESOURCE_EXHAUSTED: no sizes") is None
