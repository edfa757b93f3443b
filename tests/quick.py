"""What XLA is told in tests: compile soon, run slowly.

Networks of a few voxels take far longer to compile than to run.
"""

import jax

FLAGS = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # later ones have no other emitters
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
