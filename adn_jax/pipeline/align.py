"""T: finds the mid-sagittal plane of each head and turns it upright.

A pose is found in up to four steps, each an option of the system: the centre of mass,
network T, a search over the angle, and a refinement of the mirror loss through the
differentiable sampler. A mirror plane is the same after half a turn; where the head's
front points is told by the brain's shape.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Num

from adn_jax.config import SystemSettings
from adn_jax.distributed.mesh import ring_reduce
from adn_jax.geometry.rigid import Pose, half_extents_mm
from adn_jax.geometry.sampler import Part, Parts, mirror, sample, take_parts
from adn_jax.models import apply_alignment_net
from adn_jax.types import (
    Index,
    Matrix,
    MovedVolume,
    Params,
    Shape,
    Volume,
    register_arrays,
)

SEARCH_SIZE = 64
"""In-plane voxels that the refinement needs: it runs on averages."""
ROUGH_MM = (20.0, 6.0, 6.0)
"""Voxels (z y x) on which starts are searched and compared, no larger than this."""
EVERY_DEG = 4.0
"""Step of the search over every angle; the refinement reaches as far."""
TURNS_AT_ONCE = 15
"""Turns whose samples are taken together; all of them would need much memory."""
APART_DEG = 15.0
"""Lines that are turned by more are other lines, not the same one less well met."""
BESIDE_DEG = 2.0
"""Lines nearer than this are the same line."""
UPSIDE_DOWN = -0.05
"""Skewness (`skewness`) below which an aligned brain has its front at the back: no
whole head of a hundred made or real ones had less than 0.02 upright, slabs of three
slices had -0.045."""


def aligns(system: SystemSettings) -> bool:
    """Whether heads are turned at all; baselines on the scan as it lies are not."""
    steps = system.alignment
    by_search = steps.search_limit_deg > 0 or steps.refine_steps > 0
    return steps.network or steps.centre or by_search


@register_arrays
@dataclass(frozen=True)
class Alignment:
    """How heads lie, and the ways between I's grid and X's."""

    pose: Pose
    matrix: Matrix
    """M, from X's grid to I's: X = sample(I, M)."""
    inverse: Matrix
    """M^-1."""
    motion: Literal["none", "in_plane", "rigid"] = field(metadata={"static": True})
    """What the system's T can do; where nothing moves, warps return what they get."""

    box: tuple[Shape, Shape] | None = field(default=None, metadata={"static": True})
    """Voxels (z y x) of I's grid and of X's, where X is a box about the centre of that
    grid; None: both are one grid, of any size."""

    @classmethod
    def of(cls, pose: Pose, system: SystemSettings) -> "Alignment":
        """Alignment by a pose on the system's grid, a true rotation in mm."""
        about_x, about_y, _ = system.alignment_net.rotation_limit_deg
        _, _, along_z = system.alignment_net.translation_limit
        motion = "in_plane" if about_x == about_y == along_z == 0 else "rigid"
        prepare = system.prepare
        extents = half_extents_mm(prepare.shape, prepare.spacing_mm)
        matrix, inverse = pose.matrices(extents)
        return cls(pose, matrix, inverse, motion if aligns(system) else "none")

    @property
    def whole(self) -> "Alignment":
        """The same, X being the whole grid."""
        return replace(self, box=None)

    def warp(self, volume: Volume) -> MovedVolume:
        """X of I, or any map of I's grid on X's (linear)."""
        parts = self._parts()
        if self.motion == "none":
            return take_parts(volume, parts) if parts else volume
        in_plane = self.motion == "in_plane"
        return sample(volume, self.matrix, in_plane=in_plane, parts=parts)

    def warp_labels(
        self, labels: Num[Array, "b z y x c"]
    ) -> Num[Array, "b z2 y2 x2 c"]:
        """T(G): labels on X's grid, nearest neighbours; no gradient."""
        parts = self._parts()
        if self.motion == "none":
            return take_parts(labels, parts) if parts else labels
        in_plane = self.motion == "in_plane"
        with jax.named_scope("align"):
            moved = sample(
                labels, self.matrix, nearest=True, in_plane=in_plane, parts=parts
            )
        return jax.lax.stop_gradient(moved)

    def unwarp(self, volume: Volume) -> MovedVolume:
        """Take a map from X's grid back to I's: sample(map, M^-1), 0 around a box."""
        if self.motion == "none":
            return self.in_whole(volume)
        z, y, x = self._parts(back=True) or tuple(map(Part, volume.shape[1:4]))
        in_plane = self.motion == "in_plane"

        def contribution(
            block: Volume, matrix: Matrix, source: Index, target: Index, count: int
        ) -> MovedVolume:
            rows = Part(y.size, y.source + source, target, count)
            return sample(block, matrix, in_plane=in_plane, parts=(z, rows, x))

        with jax.named_scope("align"):
            return ring_reduce(contribution, y.size)(volume, self.inverse)

    def in_whole(self, volume: Num[Array, "b z y x c"]) -> Num[Array, "b z2 y2 x2 c"]:
        """A map of X on the whole grid about it, 0 around the box."""
        parts = self._parts(back=True)
        return take_parts(volume, parts) if parts else volume

    def fraction_outside(self, volume: Volume) -> Float[Array, " b"]:
        """Fraction of each head, its voxels above 0, that is not in the box."""
        inside = (volume > 0).astype(jnp.float32)
        total = jnp.maximum(inside.sum((1, 2, 3, 4)), 1.0)
        if self.box is None:
            return jnp.zeros_like(total)
        _, box = self.box
        seen = self.unwarp(jnp.ones((len(total), *box, 1)))
        # a voxel at the edge of the box counts as inside by half of it or more
        return (inside * (seen < 0.5)).sum((1, 2, 3, 4)) / total

    def _parts(self, back: bool = False) -> Parts | None:
        """Where X lies in I's grid, on the way to it or `back`; None: it is all."""
        if self.box is None:
            return None
        z, y, x = (
            Part(size, first, 0, size) if back else Part(size, 0, first, count)
            for size, count, first in (
                (size, count, (size - count) // 2)
                for size, count in zip(*self.box, strict=True)
            )
        )
        return z, y, x


def estimate_alignment(
    params: Params, volume: Volume, system: SystemSettings
) -> Alignment:
    """Alignment of each head by `estimate_pose`, to the system's box if it has one."""
    alignment = Alignment.of(estimate_pose(params, volume, system), system)
    if system.box is None:
        return alignment
    return replace(alignment, box=(system.prepare.shape, system.box))


def estimate_pose(params: Params, volume: Volume, system: SystemSettings) -> Pose:
    """Pose of each head by all steps of the system; no gradient flows through it.

    Args:
        params: parameters of T; None in a system without the network.
        volume: I.
        system: the steps and their settings; static under jit.
    """
    volume = jax.lax.stop_gradient(volume)
    steps = system.alignment
    everywhere = steps.search_everywhere and steps.search_limit_deg > 0
    pose = first_pose(params, volume, system)
    small = coarse(volume)
    if everywhere:
        pose = _best_start(volume, pose, system)
    elif steps.search_limit_deg > 0:
        pose = _search_angle(small, pose, system, steps.search_limit_deg)
    if steps.refine_steps > 0:
        pose = refine_pose(small, pose, system)
    if everywhere:
        pose = face_front(small, pose, system)
    return jax.lax.stop_gradient(pose)


def first_pose(params: Params, volume: Volume, system: SystemSettings) -> Pose:
    """Centre of mass and network T, as far as the system uses them."""
    pose = Pose.identity(volume.shape[0])
    if system.alignment.centre:
        pose = centre_pose(volume)
    if system.alignment.network:
        centred = Alignment.of(pose, system).warp(volume)
        change = apply_alignment_net(
            params, centred, system.alignment_net, precision=system.precision
        )
        pose = jax.tree.map(jnp.add, pose, change)
    return pose


def search_pose(volume: Volume, system: SystemSettings, limit_deg: float) -> Pose:
    """The answer without T: centre of mass, then a search over +- `limit_deg`."""
    return _search_angle(coarse(volume), centre_pose(volume), system, limit_deg)


def centre_pose(volume: Volume) -> Pose:
    """Shift in plane that brings the centre of the head's voxels to the centre."""
    inside = (volume[..., 0] > 0).astype(jnp.float32)
    mass = jnp.maximum(inside.sum((1, 2, 3)), 1.0)
    shift_x = (inside.sum((1, 2)) * _centres(volume.shape[3])).sum(-1) / mass
    shift_y = (inside.sum((1, 3)) * _centres(volume.shape[2])).sum(-1) / mass
    return Pose.in_plane(jnp.zeros_like(mass), shift_x, shift_y)


def _centres(size: int) -> Float[Array, " size"]:
    """Normalised coordinates of the voxel centres of an axis."""
    return (2 * jnp.arange(size, dtype=jnp.float32) + 1) / size - 1


def coarse(volume: Volume) -> Float[Array, "b z y1 x1 c"]:
    """Average in plane to about `SEARCH_SIZE` voxels; normalised coordinates stay."""
    _, _, y, x, _ = volume.shape
    return averaged(volume, (1, y // SEARCH_SIZE, x // SEARCH_SIZE))


def _rough(volume: Volume, system: SystemSettings) -> Float[Array, "b z1 y1 x1 c"]:
    """Average to voxels of about `ROUGH_MM`; normalised coordinates stay."""
    sizes = zip(ROUGH_MM, system.prepare.spacing_mm, strict=True)
    z, y, x = (int(most / step) for most, step in sizes)
    return averaged(volume, (z, y, x))


def averaged(
    volume: Volume, most: tuple[int, int, int]
) -> Float[Array, "b z1 y1 x1 c"]:
    """Mean of blocks of up to `most` voxels (z y x) that fill the volume."""
    b, z, y, x, c = volume.shape
    fz, fy, fx = (
        next(n for n in range(max(min(limit, size), 1), 0, -1) if size % n == 0)
        for size, limit in zip((z, y, x), most, strict=True)
    )
    blocks = volume.reshape(b, z // fz, fz, y // fy, fy, x // fx, fx, c)
    return blocks.mean((2, 4, 6))


def _best_start(volume: Volume, pose: Pose, system: SystemSettings) -> Pose:
    """The best of the angles around a pose, or of every angle about the centre of mass.

    Both are refined, then the one that mirrors better counts, so that T has no say
    where it was misled.
    """
    small, limit = _rough(volume, system), system.alignment.search_limit_deg
    anew = _best_turn(small, centre_pose(volume), system, every_turn_deg())
    near = _search_angle(small, pose, system, limit)
    poses = jax.tree.map(lambda *parts: jnp.stack(parts), near, anew)
    if system.alignment.refine_steps > 0:
        poses = jax.vmap(lambda pose: refine_pose(small, pose, system))(poses)
    losses = jax.vmap(lambda pose: unlikeness(small, pose, system))(poses)
    return poses[jnp.argmin(losses, axis=0), jnp.arange(len(volume))]


def _search_angle(
    volume: Volume, pose: Pose, system: SystemSettings, limit_deg: float
) -> Pose:
    """The pose that mirrors best among angles up to `limit_deg` from the given one."""
    turns = turns_deg(limit_deg, system.alignment.search_step_deg)
    return _best_turn(volume, pose, system, turns)


def turns_deg(limit: float, step: float) -> Float[Array, " n"]:
    """Turns in degrees from -`limit` to `limit` at equal steps of `step` at most."""
    count = math.ceil(round(limit / step, 6))  # 1.1 / 0.1 is a little more than 11
    return limit / max(count, 1) * jnp.arange(-count, count + 1, dtype=jnp.float32)


def every_turn_deg() -> Float[Array, " n"]:
    """Turns in degrees that meet every mirror line, each of them once."""
    return turns_deg(90.0 - EVERY_DEG / 2, EVERY_DEG)


def _best_turn(
    volume: Volume, pose: Pose, system: SystemSettings, turns: Float[Array, " n"]
) -> Pose:
    """The pose that mirrors best among turns (degrees) of the given one."""
    losses = _unlikeness_turned(volume, pose, system, turns)
    return pose.turned(jnp.deg2rad(turns)[jnp.argmin(losses, axis=0)])


def _unlikeness_turned(
    volume: Volume, pose: Pose, system: SystemSettings, turns: Float[Array, " n"]
) -> Float[Array, "n b"]:
    """`unlikeness` of each turn (degrees) of a pose."""

    def loss_at(turn: Float[Array, ""]) -> Float[Array, " b"]:
        return unlikeness(volume, pose.turned(turn), system)

    return jax.lax.map(loss_at, jnp.deg2rad(turns), batch_size=TURNS_AT_ONCE)


def unlikeness(
    volume: Volume, pose: Pose, system: SystemSettings
) -> Float[Array, " b"]:
    """mean |X - X'| over mean X: 0 is a symmetric head, 2 one without a partner.

    Unlike mean |X - X'| it does not fall where the grid cuts the turned head.
    """
    aligned = Alignment.of(pose, system).warp(volume)
    distance = jnp.abs(aligned - mirror(aligned)).mean((1, 2, 3, 4))
    return distance / jnp.maximum(aligned.mean((1, 2, 3, 4)), 1e-6)


def mirror_distance(
    volume: Volume, pose: Pose, system: SystemSettings
) -> Float[Array, " b"]:
    """mean |X - X'| of each head (equation 1)."""
    aligned = Alignment.of(pose, system).warp(volume)
    return jnp.abs(aligned - mirror(aligned)).mean((1, 2, 3, 4))


def refine_pose(volume: Volume, pose: Pose, system: SystemSettings) -> Pose:
    """Lower each head's mirror loss by Adam on its angle and its shift across the line.

    A shift along the mid-line changes nothing. A head keeps its start where the steps
    did not lower its loss.
    """
    steps, rate = system.alignment.refine_steps, system.alignment.refine_rate
    adam = optax.scale_by_adam(b1=0.8, b2=0.95)
    across = Alignment.of(pose, system).matrix[:, :3, 0]

    def moved(change: Float[Array, "b 2"]) -> Pose:
        turn, shift = change[:, :1], change[:, 1:] * across
        still = jnp.zeros_like(turn)
        turns = jnp.concatenate([still, still, turn], axis=1)
        return Pose(pose.rotation + turns, pose.translation + shift)

    def distances(
        change: Float[Array, "b 2"],
    ) -> tuple[Float[Array, ""], Float[Array, " b"]]:
        distance = mirror_distance(volume, moved(change), system)
        return distance.sum(), distance.astype(jnp.float32)

    def step(carry, falling_rate):
        change, state, best, best_distance = carry
        gradient, distance = jax.grad(distances, has_aux=True)(change)
        best = jnp.where((distance < best_distance)[:, None], change, best)
        direction, state = adam.update(gradient, state)
        change = change - falling_rate * direction
        return (change, state, best, jnp.minimum(distance, best_distance)), None

    start = jnp.zeros_like(pose.rotation[:, :2])
    unknown = jnp.full(len(start), jnp.inf, jnp.float32)
    rates = rate * (1 - jnp.arange(steps, dtype=jnp.float32) / steps)
    carry = (start, adam.init(start), start, unknown)
    (_, _, best, _), _ = jax.lax.scan(step, carry, rates)
    return moved(best)


def face_front(volume: Volume, pose: Pose, system: SystemSettings) -> Pose:
    """The pose or half a turn from it, so that the head's front is X's front.

    Nearest to the grid's own front, unless the brain's shape says clearly otherwise.
    """
    pose = pose.half_turned(-jnp.round(pose.in_plane_angle / jnp.pi))
    over = skewness(Alignment.of(pose, system).warp(volume)) < UPSIDE_DOWN
    return pose.half_turned(jnp.where(over, 1.0, 0.0))


def skewness(aligned: Volume) -> Float[Array, " b"]:
    """Skewness of the brain's voxels along y: above 0 where the front is the front.

    The brain is widest behind its middle, tapers to the front, and has the cerebellum
    at the back.
    """
    inside = (aligned[..., 0] > 0).astype(jnp.float32).sum((1, 3))
    share = inside / jnp.maximum(inside.sum(1, keepdims=True), 1.0)
    along = _centres(aligned.shape[2])
    away = along - (share * along).sum(1, keepdims=True)
    variance = (share * away**2).sum(1)
    return (share * away**3).sum(1) / jnp.maximum(variance, 1e-6) ** 1.5


class MidlineFit(NamedTuple):
    """How well the mid-line of each head is known."""

    unlikeness: Float[Array, " b"]
    """mean |X - X'| over mean X, roughly sampled."""
    elsewhere: Float[Array, " b"]
    """The same at the best angle that is more than `APART_DEG` away."""
    rival: Float[Array, " b"]
    """How many times as unlike the best other line within `APART_DEG` is that mirrors
    better than the lines around it; infinite where there is none."""
    skewness: Float[Array, " b"]
    """Of the aligned brain along y, above 0 where its front is X's front."""


def midline_fit(volume: Volume, pose: Pose, system: SystemSettings) -> MidlineFit:
    """Compare a pose with every other angle about its centre."""
    small, fine = _rough(volume, system), coarse(volume)
    turns = every_turn_deg()
    losses = _unlikeness_turned(small, pose, system, turns)
    apart = jnp.abs(turns)[:, None] > APART_DEG
    return MidlineFit(
        unlikeness(small, pose, system),
        jnp.where(apart, losses, jnp.inf).min(axis=0),
        _rival_line(fine, pose, system),
        skewness(Alignment.of(pose, system).warp(fine)),
    )


def _rival_line(
    volume: Volume, pose: Pose, system: SystemSettings
) -> Float[Array, " b"]:
    """`MidlineFit.rival`: a head that is rolled or bent can have two mirror lines."""
    turns = turns_deg(APART_DEG, 1.0)
    losses = _unlikeness_turned(volume, pose, system, turns)
    before, within, behind = losses[:-2], losses[1:-1], losses[2:]
    other = (jnp.abs(turns) >= BESIDE_DEG)[1:-1, None]
    is_rival = (within <= before) & (within <= behind) & other
    here = jnp.maximum(losses[turns.size // 2], 1e-6)
    return jnp.where(is_rival, within, jnp.inf).min(axis=0) / here
