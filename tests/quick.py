"""What XLA is told in tests: compile soon, run slowly.

Networks of a few voxels take far longer to compile than to run.
"""

import jax

FLAGS = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # later ones have no other emitters
    FLAGS += " --xla_cpu_use_fusion_emitters=false"

AS_EVER: dict[str, int | bool] = {"xla_backend_optimization_level": 3}
"""Options of a program whose last digits are compared: compiled as users compile it."""
if jax.__version_info__ < (0, 11):
    AS_EVER["xla_cpu_use_fusion_emitters"] = True
