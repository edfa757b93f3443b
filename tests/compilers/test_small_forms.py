"""What compilers of TPUs and cards make of a small form of the joint step.

`make compilers` installs them beside the package and runs this; nothing runs on a chip.
The bounds are a little above what jax 0.10.2 gives: they hold what was won.
"""

from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from adn_jax.config import UNetSettings
from adn_jax.config.recipe_file import load_recipe
from adn_jax.planning.plan import compile_apart
from adn_jax.planning.targets import EXTRAS, parse_target
from adn_jax.planning.worker import CompileJob

REFERENCE = Path(__file__).parents[2] / "configs/adn_reference.py"


def needs(platform):
    """Skip where its compiler is not installed."""
    module, _ = EXTRAS[platform]
    reason = f"{module} is not installed: make compilers"
    return pytest.mark.skipif(find_spec(module) is None, reason=reason)


needs_libtpu, needs_cuda = needs("tpu"), needs("gpu")


@pytest.fixture(autouse=True, scope="module")
def as_in_a_training():
    """Without the flags with which the tests compile for their own CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLA_FLAGS", raising=False)
        yield


def small(batch, **changes):
    """The reference system in bfloat16 with two levels, 32 maps in the first."""
    recipe = load_recipe(REFERENCE)
    net = UNetSettings(widths=(32, 64))
    recipe = recipe.with_fields(
        prepare=replace(recipe.system.prepare, shape=(4, 64, 64)),
        alignment_net=replace(recipe.system.alignment_net, widths=(8, 16)),
        disentangle_net=net,
        segment_net=net,
        tissue_source="none",
        joint_loss=replace(recipe.joint_loss, tissue=0.0),
        joint=replace(recipe.joint, batch=batch),
        precision="bfloat16",
    )
    return recipe.with_fields(**changes)


@cache
def compiled(target, shards=1, **changes):
    """The step with a case for each group of devices, as it was compiled."""
    where = parse_target(target)
    recipe = small(where.devices // shards, **changes)
    answer = compile_apart(CompileJob(target, recipe, "joint", shards), where)
    assert answer.step is not None, answer
    return answer.step


def exchanged(step):
    return {exchange.kind: exchange.bytes for exchange in step.exchanges}


@pytest.mark.slow
@needs_libtpu
def test_a_tpu_spends_little_on_copies_and_adds_up_gradients_alone():
    step = compiled("v5e:2x2")
    assert exchanged(step).keys() == {"all-reduce"}
    assert 0 < step.copy_share < 0.25


@pytest.mark.slow
@needs_libtpu
def test_chips_that_share_rows_send_their_borders_and_need_less_memory():
    whole, shared = compiled("v5e:2x2"), compiled("v5e:4x4", shards=4)
    assert exchanged(shared).keys() <= {
        "all-reduce",
        "collective-permute",
        "all-gather",
    }
    assert "collective-permute" in exchanged(shared)
    assert shared.memory.temporaries < 0.6 * whole.memory.temporaries


@pytest.mark.slow
@needs_libtpu
def test_sixty_four_chips_need_and_send_what_four_do():
    four, many = compiled("v5p:2x2x1"), compiled("v5p:4x4x4")
    assert many.memory.temporaries <= 1.05 * four.memory.temporaries
    assert exchanged(many).keys() == {"all-reduce"}
    assert exchanged(many)["all-reduce"] <= 1.05 * exchanged(four)["all-reduce"]
    assert many.cycles < 1.1 * four.cycles


@pytest.mark.slow
@needs_cuda
def test_a_card_keeps_channels_last_and_transposes_no_map():
    step = compiled("h200")
    assert step.convolutions > 20
    assert step.channels_first == 0
    assert step.map_copy_bytes == 0


@pytest.mark.slow
@needs_cuda
def test_what_a_card_computes_again_is_memory_saved():
    nothing = compiled("h200", remat="nothing").memory.temporaries
    assert compiled("h200").memory.temporaries < 0.85 * nothing
    assert compiled("h200", remat="blocks").memory.temporaries < 0.7 * nothing
