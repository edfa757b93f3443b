"""What is timed on PyTorch's side: networks, optimizer and fixed cases in one call."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from adn_jax.config import Recipe, StageSettings, UNetSettings
from adn_jax.errors import UserError, one_line
from benchmarks.torch_reference.cases import made_up_cases
from benchmarks.torch_reference.chain import Adn
from benchmarks.torch_reference.losses import refuse_extra
from benchmarks.torch_reference.networks import make_alignment_net, make_unet
from benchmarks.torch_reference.training import Trainer, align_step, joint_step

Call = Callable[[], object]

Place = Callable[[nn.Module], nn.Module]


def make_program(
    what: str, recipe: Recipe, batch: int, device: str, form: str
) -> Callable[[], None]:
    """The call that does one step or one inference to its end.

    Feature maps have their channels last in bfloat16 and on a CPU, where a joint step
    took 0.9 s and not 1.3 s (one core, 2 x 16 x 64 x 64 voxels, 8 base maps).
    """
    recipe = with_precision(recipe, form)
    torch.manual_seed(recipe.seed)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        exact = recipe.system.precision == "float32"
        torch.set_float32_matmul_precision("highest" if exact else "high")
        torch.backends.cudnn.allow_tf32 = not exact

    def place(network: nn.Module) -> nn.Module:
        network = network.to(device)
        if device == "cpu" or recipe.system.precision == "bfloat16":
            network = network.to(memory_format=torch.channels_last_3d)
        if form == "compiled":
            network.compile()
        return network

    make = {"align": make_align, "joint": make_joint, "inference": make_inference}
    return finished(make[what](recipe, batch, device, place), device, form)


def with_precision(recipe: Recipe, form: str) -> Recipe:
    """The recipe in the precision of a form; `compiled` has the recipe's own."""
    own = recipe.system.precision
    eager = "float32" if own == "bfloat16" else own
    precisions = {"eager": eager, "bf16": "bfloat16", "compiled": own}
    if form not in precisions:
        raise UserError(
            f"the PyTorch peer has no form {form!r}; take {', '.join(precisions)}."
        )
    return recipe.with_fields(precision=precisions[form])


def make_inference(recipe: Recipe, batch: int, device: str, place: Place) -> Call:
    """The chain T, D, F from prepared scans I to the prediction O."""
    cases = made_up_cases(recipe, batch, device, ())
    adn = make_adn(recipe, place).eval()
    return torch.inference_mode()(lambda: adn(cases.volume).prediction)


def make_align(recipe: Recipe, batch: int, device: str, place: Place) -> Call:
    """The train step of T."""
    refuse_extra(recipe.align_loss)
    refuse_stage(recipe.align, "align")
    cases = made_up_cases(recipe, batch, device, ())
    alignment_net = place(make_alignment_net(recipe.system.alignment_net))
    trainer = Trainer(alignment_net.parameters(), recipe.align)
    return lambda: align_step(alignment_net, trainer, cases, recipe)


def make_joint(recipe: Recipe, batch: int, device: str, place: Place) -> Call:
    """The train step of D and F."""
    refuse_extra(recipe.joint_loss)
    refuse_stage(recipe.joint, "joint")
    source = recipe.tissue_source
    labels = ("lesion", "tissue") if source == "maps" else ("lesion",)
    cases = made_up_cases(recipe, batch, device, labels)
    adn = make_adn(recipe, place).train()
    tissue_net = None
    if source == "network":
        refuse_levels(recipe.tissue_net, "tissue_net")
        tissue_net = place(make_unet(recipe.tissue_net)).eval()
    trained = [*adn.disentangle.parameters(), *adn.segment.parameters()]
    trainer = Trainer(trained, recipe.joint)
    return lambda: joint_step(adn, tissue_net, trainer, cases, recipe)


def make_adn(recipe: Recipe, place: Place) -> Adn:
    """T, D and F on their device; `UserError` for what the peer does not have."""
    if not recipe.system.disentangles:
        raise UserError(
            f"the PyTorch peer computes ADN, and {recipe.name} has no D; leave --peer "
            "out, or choose a recipe of ADN."
        )
    refuse_above_0(recipe.system, ("zscore_in_brain",), "system")
    refuse_levels(recipe.system.disentangle_net, "disentangle_net")
    refuse_levels(recipe.system.segment_net, "segment_net")
    adn = Adn(recipe.system)
    for network in adn.children():
        place(network)
    return adn


def refuse_levels(settings: UNetSettings, where: str) -> None:
    """Raise `UserError` for a U-Net with in-plane levels or deep supervision."""
    refuse_above_0(settings, ("in_plane_levels", "deep_supervision"), where)


def refuse_stage(settings: StageSettings, where: str) -> None:
    """Raise `UserError` for what the peer's augmentation and optimizer do not have."""
    augment, optimizer = settings.augment, settings.optimizer
    refuse_above_0(augment, ("zoom", "brightness", "noise"), f"{where}.augment")
    refuse_above_0(optimizer, ("ema_decay",), f"{where}.optimizer")
    if optimizer.kind != "adamw":
        raise UserError(
            f"the PyTorch peer has AdamW alone, but {where}.optimizer.kind is "
            f"{optimizer.kind}; set it to adamw, or leave --peer out."
        )


def refuse_above_0(settings: Any, names: Sequence[str], where: str) -> None:
    """Raise `UserError` where one of the named settings is not 0."""
    for name in names:
        if getattr(settings, name):
            raise UserError(
                f"the PyTorch peer has no {name}, but {where}.{name} is "
                f"{getattr(settings, name)}; set it to 0, or leave --peer out."
            )


def finished(call: Call, device: str, form: str) -> Callable[[], None]:
    """The call, ended when the device has done its work.

    Compilation happens in the first call, so its failure is told there.
    """

    def run() -> None:
        try:
            call()
        except Exception as error:
            if form != "compiled":
                raise
            raise UserError(
                f"torch.compile does not work here ({one_line(error)}); leave the "
                "compiled form out."
            ) from error
        if device == "cuda":
            torch.cuda.synchronize()

    return run
