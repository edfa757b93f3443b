"""The peer: this system again in PyTorch, equal to ours, to compare the speed with.

Nothing else of the package imports it, and it imports neither jax nor what needs jax
(`parameters` aside, which turns our parameters into its own): each side's memory is
its own.
"""

from collections.abc import Callable
from importlib.util import find_spec

from adn_jax.config import Recipe
from adn_jax.errors import UserError

__all__ = ["make_twin"]


def make_twin(
    what: str, recipe: Recipe, batch: int, device: str, form: str
) -> Callable[[], None]:
    """One train step or one inference in PyTorch, with fixed made-up cases.

    Args:
      what: "align", "joint" or "inference".
      recipe: networks, losses, grid and optimizer.
      batch: scans a call.
      device: PyTorch's name, "cpu" or "cuda".
      form: "eager" (float32; TF32 on CUDA), "bf16" (autocast, channels last) or
        "compiled" (`torch.compile`, in the recipe's precision).

    Returns:
      The call; each does one step or one inference to its end.

    Raises:
      UserError: PyTorch is absent, cannot compile here, or the recipe has what the
        peer lacks.
    """
    if find_spec("torch") is None:
        raise UserError(
            "PyTorch is absent; it is what the comparison is with, so run "
            "pip install -e '.[torch]'."
        )
    from adn_jax.benchmarks.twin.programs import make_program

    return make_program(what, recipe, batch, device, form)
