"""One measurement in a process of its own: a job on stdin, its figures on stdout.

`python -m adn_jax.benchmarks.worker` writes the figures as its last line, as JSON, or
{"error": sentence} where the job cannot work.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from adn_jax.benchmarks.job import Job, StepFigures
from adn_jax.config.serialization import settings_from_json, settings_to_json
from adn_jax.errors import UserError, is_out_of_memory, memory_sentence
from adn_jax.runtime.named import named_function
from adn_jax.runtime.platform import keep_freed_memory


def main() -> None:
    """Measure what stdin asks for."""
    job = settings_from_json(Job, json.load(sys.stdin), "job")
    try:
        answer = settings_to_json(measure(job))
    except UserError as error:
        answer = {"error": str(error)}
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        answer = {"error": memory_sentence(error)}
    print(json.dumps(answer), flush=True)


def peer_function(name: str) -> Callable[[Job], StepFigures]:
    """The function `module:function` that measures a peer."""
    module, _, function = name.partition(":")
    if not function:
        raise UserError(
            f"--peer is {name!r}; torch, none, or module:function of a peer of your "
            "own is wanted."
        )
    return named_function(module, function, "peer")


def measure(job: Job) -> Any:
    """The figures of a job, a dataclass; only what it needs is imported."""
    if job.what != "inference":  # as `train` does, and the peer's steps alike
        keep_freed_memory()
    if job.task == "steps" and job.form != "jit":
        return peer_function(job.peer)(job)
    from adn_jax.benchmarks.ours import (
        configure_jax,
        measure_budget,
        measure_input,
        measure_ours,
        measure_peaks,
    )

    configure_jax(job)
    tasks = {
        "peaks": measure_peaks,
        "steps": measure_ours,
        "input": measure_input,
        "budget": measure_budget,
    }
    return tasks[job.task](job)


if __name__ == "__main__":
    main()
