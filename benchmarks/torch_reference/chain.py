"""The chain T to O in PyTorch, channels first; words as in `adn_jax.types`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from adn_jax.config import AsymmetrySettings, SystemSettings
from adn_jax.errors import UserError
from benchmarks.torch_reference.networks import make_alignment_net, make_unet

Map = Float[Tensor, "b 1 z y x"]

Channels = Float[Tensor, "b c z y x"]

Matrix = Float[Tensor, "b 4 4"]


class Pose(NamedTuple):
    """How each head lies, as `adn_jax.geometry.rigid.Pose`."""

    rotation: Float[Tensor, "b 3"]
    translation: Float[Tensor, "b 3"]


@dataclass(frozen=True)
class Outputs:
    """Everything that inference and the losses take from the chain."""

    pose: Pose
    matrix: Matrix
    inverse: Matrix
    aligned: Map
    mirrored: Map
    asymmetry: Map
    pathological_probability: Map
    pathological: Map
    anatomical: Map
    salient: Map
    aligned_prediction: Map
    prediction: Map


class Adn(nn.Module):
    """T (where the system uses it), D and F, and the chain through them."""

    def __init__(self, system: SystemSettings):
        """Make the networks."""
        super().__init__()
        check_alignment(system)
        self.system = system
        self.align = (
            make_alignment_net(system.alignment_net)
            if system.alignment.network
            else None
        )
        self.disentangle = make_unet(
            system.disentangle_net, system.disentangle_channels
        )
        self.segment = make_unet(system.segment_net, system.segment_channels)

    def forward(self, volume: Map) -> Outputs:
        """Run T, the asymmetry split, D and F on prepared scans I."""
        with torch.no_grad():
            pose = estimate_pose(self.align, volume, self.system)
            matrix, inverse = matrices(pose, self.system)
        return self.behind_alignment(volume, pose, matrix, inverse)

    def behind_alignment(
        self, volume: Map, pose: Pose, matrix: Matrix, inverse: Matrix
    ) -> Outputs:
        """Everything from I to O at a known pose."""
        system = self.system
        with torch.no_grad():
            aligned = to_box(sample(volume, matrix, system), system)
            mirrored = mirror(aligned)
            asymmetry = F.relu(mirrored - aligned)
            if rim := system.asymmetry.rim_voxels(system.prepare.spacing_mm):
                asymmetry = asymmetry * within_both_sides(aligned, mirrored, rim)
        sides = (aligned, mirrored)
        seen = sides if system.disentangle_input == "mirror_pair" else sides[:1]
        probability = torch.sigmoid(run(self.disentangle, torch.cat(seen, 1), system))
        is_part = system.asymmetry.pathological == "part"
        pathological = asymmetry * probability if is_part else probability
        anatomical = anatomical_asymmetry(asymmetry, pathological, system.asymmetry)
        salient = aligned + anatomical
        triple = system.segment_input == "salient_triple"
        seen = (salient, *sides) if triple else (salient,)
        aligned_prediction = torch.sigmoid(
            run(self.segment, torch.cat(seen, 1), system)
        )
        return Outputs(
            pose=pose,
            matrix=matrix,
            inverse=inverse,
            aligned=aligned,
            mirrored=mirrored,
            asymmetry=asymmetry,
            pathological_probability=probability,
            pathological=pathological,
            anatomical=anatomical,
            salient=salient,
            aligned_prediction=aligned_prediction,
            prediction=sample(in_grid(aligned_prediction, system), inverse, system),
        )


def check_alignment(system: SystemSettings) -> None:
    """Refuse the two steps of the alignment that the peer lacks."""
    alignment = system.alignment
    if alignment.search_limit_deg > 0 or alignment.refine_steps > 0:
        raise UserError(
            "the PyTorch peer neither searches nor refines a pose (search_limit_deg "
            f"{alignment.search_limit_deg:g}, refine_steps {alignment.refine_steps}); "
            "add --alignment.search-limit-deg 0 --alignment.refine-steps 0 for both "
            "sides."
        )


def run(
    network: nn.Module, volume: Map, system: SystemSettings
) -> Float[Tensor, "b ..."]:
    """Output of a network, its feature maps in the system's precision."""
    in_bfloat16 = system.precision == "bfloat16"
    with torch.autocast(volume.device.type, torch.bfloat16, enabled=in_bfloat16):
        return network(volume.bfloat16() if in_bfloat16 else volume)


def estimate_pose(
    alignment_net: nn.Module | None, volume: Map, system: SystemSettings
) -> Pose:
    """Centre of mass and network T, as far as the system uses them."""
    pose = Pose(*volume.new_zeros(2, volume.shape[0], 3))
    if system.alignment.centre:
        pose = centre_pose(volume)
    if alignment_net is not None:
        matrix, _ = matrices(pose, system)
        numbers = run(alignment_net, sample(volume, matrix, system), system)
        rotation, translation = numbers.split(3, dim=1)
        pose = Pose(pose.rotation + rotation, pose.translation + translation)
    return pose


def centre_pose(volume: Map) -> Pose:
    """Shift in plane that brings the centre of the head's voxels to the centre."""
    inside = (volume[:, 0] > 0).float()
    mass = inside.sum((1, 2, 3)).clamp(min=1)
    along = partial(centres, device=volume.device)
    shift_x = (inside.sum((1, 2)) * along(volume.shape[4])).sum(-1) / mass
    shift_y = (inside.sum((1, 3)) * along(volume.shape[3])).sum(-1) / mass
    zero = torch.zeros_like(mass)
    translation = torch.stack([shift_x, shift_y, zero], dim=-1)
    return Pose(torch.zeros_like(translation), translation)


def centres(size: int, device: torch.device) -> Float[Tensor, " size"]:
    """Normalised coordinates of the voxel centres of an axis."""
    return (2 * torch.arange(size, device=device) + 1) / size - 1


def matrices(pose: Pose, system: SystemSettings) -> tuple[Matrix, Matrix]:
    """M = T R of each pose and its inverse; R is a true rotation in mm."""
    prepare = system.prepare
    return rigid_matrices(pose, prepare.shape, prepare.spacing_mm)


def rigid_matrices(
    pose: Pose, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> tuple[Matrix, Matrix]:
    """M and M^-1 of each pose on a grid with shape and spacing in (z, y, x)."""
    scale = axis_ratios(shape, spacing_mm, pose.rotation)
    turn, shift = rotation(pose.rotation), pose.translation[:, :, None]
    forward, backward = turn * scale, turn.transpose(1, 2) * scale
    back_shift = -(backward * shift.transpose(1, 2)).sum(2, keepdim=True)
    return homogeneous(forward, shift), homogeneous(backward, back_shift)


def inverse_of(matrix: Matrix, system: SystemSettings) -> Matrix:
    """M^-1 of M by its rotation's transpose: ONNX has no general inverse."""
    scale = axis_ratios(system.prepare.shape, system.prepare.spacing_mm, matrix)
    forward, shift = matrix[:, :3, :3], matrix[:, :3, 3:]
    backward = (forward / scale).transpose(1, 2) * scale
    return homogeneous(backward, -(backward * shift.transpose(1, 2)).sum(2, True))


def axis_ratios(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], like: Tensor
) -> Float[Tensor, "3 3"]:
    """Extent along x, y, z (columns) in extents along x, y, z (rows) of a grid."""
    extents = [size * step for size, step in zip(shape, spacing_mm, strict=True)][::-1]
    return like.new_tensor([[j / i for j in extents] for i in extents])


def rotation(angles: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    """Rz Ry Rx of angles about x, y, z in radians."""
    (sx, sy, sz), (cx, cy, cz) = angles.sin().T, angles.cos().T
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1)


def homogeneous(turn: Float[Tensor, "b 3 3"], shift: Float[Tensor, "b 3 1"]) -> Matrix:
    """Matrices with a last row of 0 0 0 1."""
    last = turn.new_tensor([0, 0, 0, 1]).expand(turn.shape[0], 1, 4)
    return torch.cat([torch.cat([turn, shift], dim=2), last], dim=1)


def is_in_plane(system: SystemSettings) -> bool:
    """Whether T can only rotate about z and shift along x and y."""
    about_x, about_y, _ = system.alignment_net.rotation_limit_deg
    return about_x == about_y == system.alignment_net.translation_limit[2] == 0


def sample(
    volume: Channels, matrix: Matrix, system: SystemSettings, mode: str = "bilinear"
) -> Channels:
    """Warp each volume: output(p) = volume(M p), zero outside the grid."""
    if is_in_plane(system):
        return sample_in_plane(volume, matrix, mode)
    grid = F.affine_grid(matrix[:, :3], volume.shape, align_corners=False)
    return F.grid_sample(volume, grid, mode, "zeros", align_corners=False)


def sample_in_plane(
    volume: Channels, matrix: Matrix, mode: str = "bilinear"
) -> Channels:
    """Warp under matrices that turn about z alone: slices become channels."""
    slices = volume.flatten(1, 2)
    in_plane = matrix[:, :2][:, :, [0, 1, 3]]
    grid = F.affine_grid(in_plane, slices.shape, align_corners=False)
    warped = F.grid_sample(slices, grid, mode, "zeros", align_corners=False)
    return warped.reshape(volume.shape)


def to_box(volume: Channels, system: SystemSettings) -> Channels:
    """What D and F see of a map on the whole grid."""
    if system.box is None:
        return volume
    z, y, x = (slice(edge, -edge or None) for edge in edges(system.box, system))
    return volume[:, :, z, y, x]


def in_grid(volume: Channels, system: SystemSettings) -> Channels:
    """A map of the box on the whole grid, 0 around it."""
    around = edges(volume.shape[2:], system)
    return F.pad(volume, [edge for edge in reversed(around) for _ in range(2)])


def edges(shape: Sequence[int], system: SystemSettings) -> list[int]:
    """Voxels of the grid on each side of a box in its middle, along z, y and x."""
    sizes = zip(system.prepare.shape, shape, strict=True)
    return [(whole - size) // 2 for whole, size in sizes]


def mirror(volume: Channels) -> Channels:
    """Flip x, the left-right axis."""
    return volume.flip(-1)


def within_both_sides(aligned: Map, mirrored: Map, rim: int) -> Map:
    """1 where X and X' are brain, `rim` voxels inside it in the slice; else 0."""
    grown = greatest_in_slice(((aligned > 0) & (mirrored > 0)).to(aligned.dtype), 1)
    return -greatest_in_slice(-grown, 1 + rim)


def greatest_in_slice(volume: Map, reach: int) -> Map:
    """The greatest value within `reach` voxels along x and y."""
    return F.max_pool3d(volume, (1, 2 * reach + 1, 2 * reach + 1), 1, (0, reach, reach))


def anatomical_asymmetry(
    asymmetry: Map, pathological: Map, settings: AsymmetrySettings
) -> Map:
    """Q = A - P, or its positive part in the authors' code."""
    difference = asymmetry - pathological
    return F.relu(difference) if settings.anatomical == "positive_part" else difference


def compensated_volume(outputs: Outputs, settings: AsymmetrySettings) -> Map:
    """X_tilde = X + P, in the authors' code no brighter than max(X, X')."""
    total = outputs.aligned + outputs.pathological
    if settings.compensated == "clipped":
        return torch.minimum(total, torch.maximum(outputs.aligned, outputs.mirrored))
    return total
