import re

import pytest

from adn_jax.errors import UserError
from adn_jax.planning import targets
from adn_jax.planning.targets import (
    GIB,
    check_compiler,
    compiler_environment,
    parse_target,
)


@pytest.mark.parametrize(
    ("text", "chip", "devices", "room"),
    [
        ("v5e:4x4", "TPU v5e", 16, 16 * GIB),
        ("V5P:4x4x4", "TPU v5p", 64, 95 * GIB),
        ("v4:2x2x1", "TPU v4", 4, 32 * GIB),
        ("v6e:2x4", "TPU v6e", 8, 32 * GIB),
        ("h100", "NVIDIA H100 SXM", 1, 60 * 10**9),
        ("h200:8", "NVIDIA H200", 8, 141 * 10**9 * 3 // 4),
    ],
)
def test_targets(text, chip, devices, room):
    target = parse_target(text)
    assert (target.chip.name, target.devices, target.room) == (chip, devices, room)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a100", "--target 'a100' is unknown; it begins with v4, v5e"),
        ("", "--target '' is unknown"),
        ("v5e", "--target 'v5e' wants the slice's chips along 2 axes"),
        ("v5e:2x2x1", "wants the slice's chips along 2 axes"),
        ("v5p:4x4", "wants the slice's chips along 3 axes"),
        ("v5e:0x4", "wants the slice's chips along 2 axes"),
        ("h200:9", "wants a number of cards of one host, 1 to 8"),
        ("h200:2x2", "wants a number of cards of one host, 1 to 8"),
    ],
)
def test_what_is_no_target_is_one_sentence(text, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("v5e:2x2", r"libtpu is needed .* pip install 'adn-jax\[plan-tpu\]'"),
        ("h200", r"jax_cuda13_plugin is needed .* pip install 'adn-jax\[plan-cuda\]'"),
    ],
)
def test_an_absent_compiler_is_one_sentence(monkeypatch, text, sentence):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=sentence):
        check_compiler(parse_target(text))


def test_a_process_that_compiles_computes_on_the_cpu(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    for text in ("v5e:2x2", "h200"):
        assert compiler_environment(parse_target(text))["JAX_PLATFORMS"] == "cpu"
    flags = compiler_environment(parse_target("h200"))["XLA_FLAGS"]
    assert flags == "--xla_a=1 --xla_gpu_autotune_level=0"
