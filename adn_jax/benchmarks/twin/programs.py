"""What is timed on PyTorch's side: networks, optimizer and fixed cases in one call."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from adn_jax.benchmarks.heads import draw_cases
from adn_jax.benchmarks.twin.chain import Adn
from adn_jax.config import Recipe
from adn_jax.errors import UserError

Call = Callable[[], None]


@dataclass(frozen=True)
class Cases:
    """A batch of prepared cases, channels first; `tissue` holds 0 to 3."""

    volume: Tensor
    lesion: Tensor
    tissue: Tensor


def make_program(what: str, recipe: Recipe, batch: int, device: str, form: str) -> Call:
    """The call that does one step or one inference to its end."""
    recipe = with_precision(recipe, form)
    torch.manual_seed(recipe.seed)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    cases = made_up_cases(recipe, batch, device)
    makers = {"inference": make_inference}
    return synchronised(makers[what](recipe, cases, form), device)


def with_precision(recipe: Recipe, form: str) -> Recipe:
    """The recipe in the precision of a form; `compiled` has the recipe's own."""
    precisions = {"eager": "float32", "bf16": "bfloat16", "compiled": recipe.precision}
    if form not in precisions:
        raise UserError(
            f"the PyTorch peer has no form {form!r}; take {', '.join(precisions)}."
        )
    return replace(recipe, precision=precisions[form])


def made_up_cases(recipe: Recipe, batch: int, device: str) -> Cases:
    """The cases that our side gets, too."""
    arrays = draw_cases(recipe.prepare.shape, batch)

    def place(name: str, scale: float) -> Tensor:
        values = torch.from_numpy(arrays[name].astype(np.float32) / np.float32(scale))
        return values[:, None].to(device)

    return Cases(place("volume", 1), place("lesion", 255), place("tissue", 1))


def make_inference(recipe: Recipe, cases: Cases, form: str) -> Call:
    """The chain T, D, F from prepared scans I to the prediction O."""
    adn = placed(Adn(recipe), recipe, cases, form).eval()

    def infer() -> None:
        with torch.inference_mode():
            adn(cases.volume)

    return infer


def placed(adn: nn.Module, recipe: Recipe, cases: Cases, form: str) -> nn.Module:
    """Networks on the device of the cases, laid out and compiled as the form says."""
    adn = adn.to(cases.volume.device)
    if recipe.precision == "bfloat16":
        adn = adn.to(memory_format=torch.channels_last_3d)
    if form == "compiled":
        check_compiler(cases.volume.device)
        for network in adn.children():
            network.compile()
    return adn


def check_compiler(device: torch.device) -> None:
    """Refuse to compile where nothing can; torch would find out in the first call."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise UserError(
            "torch.compile needs a C++ compiler on a CPU and none is on the PATH; "
            "install g++, or leave the compiled form out."
        )


def synchronised(call: Call, device: str) -> Call:
    """The call, ended when the device has done its work."""
    if device != "cuda":
        return call

    def run() -> None:
        call()
        torch.cuda.synchronize()

    return run
