"""A run's chain as ONNX, written from its PyTorch form by torch.onnx.

ONNX has no derivatives, so the refinement of a pose cannot be in it: where a system
searches or refines the pose, M is an input, and everything behind it is in the file.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from adn_jax.config import Recipe
from adn_jax.errors import UserError
from adn_jax.training.runs import TrainedModel
from benchmarks.torch_reference.chain import Adn, Matrix, Pose, in_grid, inverse_of
from benchmarks.torch_reference.networks import GroupNorm
from benchmarks.torch_reference.parameters import state_of
from benchmarks.torch_reference.programs import make_adn

PACKAGES = ("onnx", "onnxscript", "onnxruntime")

OPSET = 20
"""The first whose GridSample takes volumes."""

LARGEST_DIFFERENCE = 2e-4
"""A file from which onnxruntime computes maps that differ by more is not written."""

MAPS = (
    *("aligned", "asymmetry", "pathological", "anatomical"),
    *("aligned_prediction", "prediction"),
)


class OnnxChain(nn.Module):
    """The maps of prepared scans, with M given or found by T."""

    def __init__(self, adn: Adn):
        """Wrap the chain."""
        super().__init__()
        self.adn = adn

    def forward(
        self, volume: Float[Tensor, "b z y x"], matrix: Matrix | None = None
    ) -> tuple[Float[Tensor, "b z y x"] | Matrix, ...]:
        """`MAPS` in their order; behind them M, where it was not given."""
        volume = volume[:, None]
        if matrix is None:
            outputs = self.adn(volume)
        else:
            inverse = inverse_of(matrix, self.adn.system)
            unused = Pose(matrix[:, 0, :3], matrix[:, 0, :3])
            outputs = self.adn.behind_alignment(volume, unused, matrix, inverse)
        *of_x, prediction = (getattr(outputs, name) for name in MAPS)
        whole = (in_grid(one, self.adn.system) for one in of_x)
        maps = tuple(one[:, 0] for one in (*whole, prediction))
        return maps if matrix is not None else (*maps, outputs.matrix)


class ExplicitNorm(nn.Module):
    """A group norm in plain sums, whose rounding is a tenth of that of onnxruntime's.

    It sums a long row of numbers one after the other; here means of rows are averaged.
    """

    def __init__(self, norm: GroupNorm):
        """Take its parameters."""
        super().__init__()
        self.norm = norm

    def forward(self, volume: Float[Tensor, "b c z y x"]) -> Float[Tensor, "b c z y x"]:
        """Normalise."""
        batch, channels, z, y, x = volume.shape
        groups = self.norm.num_groups
        rows = volume.reshape(batch, groups, channels // groups * z, y * x)
        centred = rows - rows.mean(3, keepdim=True).mean(2, keepdim=True)
        variance = (centred * centred).mean(3, keepdim=True).mean(2, keepdim=True)
        unit = centred / (variance + self.norm.eps).sqrt()
        weight, bias = (
            one.reshape(1, channels, 1, 1, 1)
            for one in (self.norm.weight, self.norm.bias)
        )
        return unit.reshape(batch, channels, z, y, x) * weight + bias


def with_explicit_norms(module: nn.Module) -> None:
    """Replace every group norm within a module."""
    for name, child in list(module.named_children()):
        if isinstance(child, GroupNorm):
            setattr(module, name, ExplicitNorm(child))
        else:
            with_explicit_norms(child)


def write_onnx(model: TrainedModel, path: Path) -> dict[str, Any]:
    """Write the chain of a run; returns its inputs, and by how much its maps differ.

    Raises `UserError` where the system has what the PyTorch form lacks, a package is
    missing, or onnxruntime computes something else than PyTorch.
    """
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    if lacking:
        raise UserError(
            f"{', '.join(lacking)} is not installed, which ONNX is written with; pip "
            "install 'adn-jax[onnx]'."
        )
    chain, takes_matrix = make_chain(model)
    names = [*MAPS, *([] if takes_matrix else ["matrix"])]
    inputs = made_up_inputs(model.recipe, 2, takes_matrix)
    others = made_up_inputs(model.recipe, 3, takes_matrix)
    with torch.no_grad():
        wanted = chain(*others.values())
    with_explicit_norms(chain)
    cases = torch.export.Dim("b")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx tells of what it will change
        program = torch.onnx.export(
            chain,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=[*inputs],
            output_names=names,
            dynamic_shapes=tuple({0: cases} for _ in inputs),
            verbose=False,
        )
    program.save(path)
    differing = largest_difference(path, others, wanted)
    if not differing < LARGEST_DIFFERENCE:
        raise UserError(
            f"onnxruntime computes maps from the ONNX file that differ by "
            f"{differing:.1g} from PyTorch's; take --format stablehlo."
        )
    return {
        "inputs": [*inputs],
        "largest_difference": differing,
        "opset": OPSET,
    }


def make_chain(model: TrainedModel) -> tuple[OnnxChain, bool]:
    """The chain with a run's parameters, and whether M has to be given."""
    recipe, params = model.recipe, model.params
    alignment = recipe.system.alignment
    takes_matrix = alignment.search_limit_deg > 0 or alignment.refine_steps > 0
    if takes_matrix:
        still = replace(alignment, network=False, search_limit_deg=0.0, refine_steps=0)
        recipe = recipe.with_fields(alignment=still)
    try:
        adn = make_adn(recipe, nn.Module.eval)
    except UserError as error:
        what = str(error).partition(";")[0]
        raise UserError(
            f"ONNX is written through the PyTorch form of a chain, and {what}; take "
            "--format stablehlo."
        ) from error
    adn.disentangle.load_state_dict(state_of(params.disentangle))
    adn.segment.load_state_dict(state_of(params.segment))
    if adn.align is not None:
        adn.align.load_state_dict(state_of(params.align))
    return OnnxChain(adn).eval(), takes_matrix


def made_up_inputs(recipe: Recipe, cases: int, takes_matrix: bool) -> dict[str, Tensor]:
    """Balls of noise, and turned grids if M is asked for."""
    rng = np.random.default_rng(0)
    shape = recipe.system.prepare.shape
    away = sum(
        np.linspace(-1, 1, size).reshape([-1 if i == axis else 1 for i in range(3)])
        ** 2
        for axis, size in enumerate(shape)
    )
    noise = rng.random((cases, *shape), np.float32)
    inputs = {"volume": torch.from_numpy((0.3 + 0.05 * noise) * (away < 0.8))}
    if takes_matrix:
        matrix = np.tile(np.eye(4, dtype=np.float32), (cases, 1, 1))
        # along every axis: on the grid itself, rounding would decide what is brain
        matrix[:, :3] += rng.uniform(-0.05, 0.05, (cases, 3, 4))
        inputs["matrix"] = torch.from_numpy(matrix)
    return {name: one.to(torch.float32) for name, one in inputs.items()}


def largest_difference(
    path: Path, inputs: Mapping[str, Tensor], wanted: Sequence[Tensor]
) -> float:
    """Between the outputs of onnxruntime and others."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: one.numpy() for name, one in inputs.items()})
    return max(
        float(np.abs(one - other.numpy()).max())
        for one, other in zip(found, wanted, strict=True)
    )
