import subprocess
import sys

import pytest
from aiohttp import ClientError
from jax.errors import JaxRuntimeError

from adn_jax.cli.main import ANEW, KEEPS_IN_OUT, VERBS, is_continued, main, run_verb
from adn_jax.errors import UserError


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_names_every_verb(capsys, arguments):
    main(arguments)
    said = capsys.readouterr().out
    assert said.startswith("usage: adn VERB ...")
    assert all(f"  {verb} " in said for verb in VERBS)


def test_arguments_come_from_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["adn", "segment"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("adn: there is no verb 'segment'.\nusage: adn VERB")


@pytest.mark.parametrize(
    ("verb", "usage"),
    [
        ("phantom", "adn phantom [-h] [OPTIONS] OUT"),
        ("prepare", "adn prepare [-h] [OPTIONS] RAW OUT"),
        ("pack", "adn pack [-h] PREPARED OUT [--cases-per-shard INT]"),
        ("train", "adn train CONFIG [-h] [OPTIONS]"),
        ("evaluate", "adn evaluate [-h] [OPTIONS] [RUN]"),
        ("predict", "adn predict [-h] [OPTIONS] [RUN] SCAN [SCAN ...]"),
        ("table", "adn table [-h] [OPTIONS] DATA OUT"),
        ("sweep", "adn sweep CONFIG [-h] [OPTIONS]"),
        ("benchmark", "adn benchmark CONFIG [-h] [OPTIONS]"),
        ("export", "adn export [-h] [OPTIONS] PREPARED OUT"),
        ("import-torch", "adn import-torch [-h] RUN --t PATH --df PATH"),
    ],
)
def test_help_of_each_verb_names_its_arguments(capsys, verb, usage):
    assert verb in VERBS
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: {usage}")
    assert "\n    Any" not in said


@pytest.mark.parametrize(
    ("error", "sentence", "code"),
    [
        (UserError("the scan is no scan; give one."), "the scan is no scan; give", 2),
        (ClientError("not you"), "an object store refused (not you); check its ad", 2),
        (MemoryError(), "memory ran out (the system gave no more); end other", 2),
        (
            JaxRuntimeError("RESOURCE_EXHAUSTED: Out\nof 9"),
            "memory ran out (RESOURCE",
            2,
        ),
        (KeyboardInterrupt(), "stopped; the same command continues.", 130),
        (KeyboardInterrupt(15), "stopped; the same command continues.", 143),
    ],
)
def test_errors_become_one_sentence_and_an_exit_code(capsys, error, sentence, code):
    def verb(_):
        raise error

    with pytest.raises(SystemExit) as end:
        run_verb(verb, [])
    assert end.value.code == code
    said = capsys.readouterr().err
    assert said.startswith(f"adn: {sentence}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("continues", [True, False])
def test_a_stopped_verb_says_whether_it_continues(capsys, continues):
    def verb(_):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        run_verb(verb, [], continues)
    said = "continues" if continues else "begins anew"
    assert capsys.readouterr().err == f"adn: stopped; the same command {said}.\n"


def test_verbs_that_begin_anew_are_verbs():
    assert set(VERBS) > ANEW > KEEPS_IN_OUT


@pytest.mark.parametrize(
    ("command", "continues"),
    [
        (["train", "a.py", "--run", "b"], True),
        (["predict", "a.nii", "--out", "b"], False),
        (["plan", "a.py", "--target", "h100"], False),
        (["plan", "a.py", "--target", "h100", "--out", "b"], True),
        (["plan", "a.py", "--target", "h100", "--out=b"], True),
    ],
)
def test_a_verb_is_continued_with_what_it_keeps(command, continues):
    verb, *options = command
    assert is_continued(verb, options) == continues


def test_other_errors_of_xla_stay_what_they_are():
    def verb(_):
        raise JaxRuntimeError("INTERNAL: a fault")

    with pytest.raises(JaxRuntimeError, match="a fault"):
        run_verb(verb, [])


def test_a_reader_that_leaves_early_ends_it_without_a_word():
    command = [sys.executable, "-m", "adn_jax", "train", "configs/adn.py", "--help"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_another_broken_pipe_is_an_error():
    def fail(_):
        raise BrokenPipeError("the store hung up")

    with pytest.raises(BrokenPipeError, match="hung up"):
        run_verb(fail, [])
