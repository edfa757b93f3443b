"""The same bits at every run, where a device would not give them by itself."""

import os

FLAG = "--xla_gpu_deterministic_ops"


def demand_same_bits() -> None:
    """Let XLA take only operations on GPUs that give the same bits at every run.

    CPUs and TPUs do so anyway. What the user set by XLA's flag stays. It compiles
    without trying which kernels are the fastest, for those could differ from run to
    run, and ends with an error where an operation has no such form. Call it before jax
    is used. Source: XLA's flag of this name.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}=true".strip()
