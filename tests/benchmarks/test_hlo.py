import jax
import jax.numpy as jnp

from adn_jax.benchmarks.budget import Instruction, module_name, read_instructions

TEXT = """HloModule jit_step, is_scheduled=true, entry_computation_layout={()->f32[]}

%fused (param_0: f32[4], param_1: f32[4]) -> f32[4] {
  %param_0 = f32[4]{0} parameter(0)
  %param_1 = f32[4]{0} parameter(1)
  %add.1 = f32[4]{0} add(%param_0, %param_1), metadata={op_name="jit(step)/a/add"}
  ROOT %maximum.1 = f32[4]{0} maximum(%add.1, %param_0)
}

ENTRY %main (x.1: f32[4], y.1: f32[4]) -> (f32[4], f32[4]) {
  %x.1 = f32[4]{0:T(128)} parameter(0)
  %y.1 = f32[4]{0} parameter(1)
  %copy.1 = f32[4]{0} copy(%y.1)
  %fusion.1 = f32[4]{0} fusion(%x.1, /*index=1*/%copy.1), kind=kLoop, calls=%fused
  %conv = (f32[4]{0:T(128)}, u8[0]{0}) custom-call(%fusion.1, %y.1), \
custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/b/conv" id=1}
  %gte = f32[4]{0} get-tuple-element(%conv), index=0
  %copy.2 = f32[4]{0} copy(%gte)
  ROOT %tuple.1 = (f32[4]{0}, /*index=1*/f32[4]{0}) tuple(%fusion.1, %copy.2)
}
"""


def test_instructions_with_their_origin():
    found = read_instructions(TEXT)
    assert module_name(TEXT) == "jit_step"
    assert found["fusion.1"] == Instruction(
        frozenset({"add", "maximum"}), "jit(step)/a/add", result_bytes=16
    )
    assert found["conv"] == Instruction(
        frozenset({"__cudnn$convForward"}), "jit(step)/b/conv", result_bytes=16
    )


def test_copies_take_the_origin_of_their_user_else_of_their_operand():
    found = read_instructions(TEXT)
    assert found["copy.1"].opcodes == {"copy"}
    assert found["copy.1"].scope == "jit(step)/a/add"
    assert found["copy.2"].scope == "jit(step)/b/conv"


def test_a_compiled_program_is_understood():
    def step(x):
        with jax.named_scope("here"):
            y = jnp.sin(x) @ x
        return jnp.sort(y, axis=0)

    text = jax.jit(step).lower(jnp.ones((64, 64))).compile().as_text()
    found = read_instructions(text)
    scopes = {op: each.scope for each in found.values() for op in each.opcodes}
    assert module_name(text) == "jit_step"
    assert scopes["dot"] == "jit(step)/here/dot_general"
    assert "sort" in scopes["sort"]
