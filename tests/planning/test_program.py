from adn_jax.benchmarks.hlo import array_bytes, read_instructions
from adn_jax.planning.program import Exchange, PartCycles, read_program
from adn_jax.runtime.capacity import CompiledMemory

MEMORY = CompiledMemory(1, 2, 2, 4)

CYCLES = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'

SEGMENT = 'metadata={op_name="jit(step)/jvp(segment)/UNet/conv_1/convolution"}'

TPU = f"""HloModule jit_step, is_scheduled=true

%body (p: f32[4]) -> f32[4] {{
  %p = f32[4]{{0}} parameter(0)
  ROOT %copy.3 = f32[4]{{0}} copy(%p), metadata={{op_name="jit(step)/align/x"}}, \
{CYCLES % 10}
}}

ENTRY %main (x: bf16[1,4,8,8,32]) -> f32[4] {{
  %x = bf16[1,4,8,8,32]{{4,3,2,1,0}} parameter(0)
  %conv.1 = bf16[1,4,8,8,32]{{4,3,2,1,0}} convolution(%x, %x), \
dim_labels=b012f_012io->b012f, {SEGMENT}, {CYCLES % 700}
  %copy.1 = bf16[1,4,8,8,32]{{3,4,2,1,0}} copy(%conv.1), {SEGMENT}, {CYCLES % 100}
  %unknown = f32[4]{{0}} add(%x, %x), {CYCLES % (1 << 62)}
  %all-reduce.1 = (f32[4]{{0}}, bf16[8]{{0}}) all-reduce(%unknown, %x)
  %while.1 = f32[4]{{0}} while(%unknown), condition=%c, body=%body, \
backend_config={{"known_trip_count":{{"n":"12"}}}}
  ROOT %tuple.1 = (f32[4]{{0}}) tuple(%while.1)
}}
"""

CUDA = """HloModule jit_step

ENTRY %main (x: bf16[1,64,64,64,32]) -> bf16[1,64,64,64,32] {
  %x = bf16[1,64,64,64,32]{4,3,2,1,0} parameter(0)
  %transpose.1 = bf16[1,32,64,64,64]{4,3,2,1,0} transpose(%x), dimensions={0,4,1,2,3}
  %conv.1 = (bf16[1,32,64,64,64]{4,3,2,1,0}, u8[0]{0}) custom-call(%transpose.1), \
dim_labels=bf012_oi012->bf012, custom_call_target="__cudnn$convForward"
  %conv.2 = (bf16[1,64,64,64,32]{4,3,2,1,0}, u8[0]{0}) custom-call(%x), \
dim_labels=b012f_o012i->b012f, custom_call_target="__cudnn$convForward"
  %small = bf16[32,4]{1,0} transpose(%x), dimensions={1,0}
  ROOT %tuple.1 = (bf16[1,64,64,64,32]{4,3,2,1,0}) tuple(%conv.2)
}
"""


def test_cycles_copies_and_exchanges_of_a_tpu():
    step = read_program(TPU, MEMORY, 3.0)
    assert step.parts == (
        PartCycles("segment", 800, 100),
        PartCycles("align", 120, 120),
    )
    assert step.cycles == 920
    assert step.copy_share == 220 / 920
    assert step.exchanges == (Exchange("all-reduce", 1, 32),)
    assert (step.memory, step.compile_s) == (MEMORY, 3.0)


def test_layouts_and_transposes_of_a_gpu():
    step = read_program(CUDA, MEMORY, 3.0)
    assert (step.channels_first, step.convolutions) == (1, 2)
    assert step.map_copy_bytes == 2 * 32 * 64**3
    assert step.cycles == 0
    assert step.copy_share == 0


def test_a_loop_counts_as_often_as_it_turns():
    assert read_instructions(TPU)["copy.3"].cycles == 120


def test_sizes_of_arrays():
    assert array_bytes("bf16[1,4,8]{2,1,0}") == 64
    assert array_bytes("(f32[2,3]{1,0}, pred[7]{0}, u8[0]{0}, s32[])") == 24 + 7 + 4
