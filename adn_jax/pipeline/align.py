"""T: finds the mid-sagittal plane of each head and turns it upright.

A view is found in up to four steps, each an option of the system: the centre of mass,
network T, a search over the angle, and a refinement of the mirror loss through the
differentiable sampler. A mirror plane is the same after half a turn; where the head's
front points is told by the brain's shape.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from adn_jax.config import SystemSettings
from adn_jax.geometry.rigid import half_extents_mm, view_to_matrices
from adn_jax.geometry.sampler import mirror, sample
from adn_jax.models import apply_alignment_net
from adn_jax.types import Matrix, Params, View, Volume

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


def align_volume(
    volume: Volume, view: View, system: SystemSettings
) -> tuple[Volume, Matrix, Matrix]:
    """X = sample(I, M), with M and its exact inverse; I itself where nothing aligns."""
    matrix, inverse = matrices(view, system)
    if not aligns(system):
        return volume, matrix, inverse
    return sample(volume, matrix, in_plane=is_in_plane(system)), matrix, inverse


def matrices(view: View, system: SystemSettings) -> tuple[Matrix, Matrix]:
    """M and M^-1 of a view on the system's grid, a true rotation in mm."""
    extents = half_extents_mm(system.prepare.shape, system.prepare.spacing_mm)
    return view_to_matrices(view, extents)


def aligns(system: SystemSettings) -> bool:
    """Whether heads are turned at all; baselines on the scan as it lies are not."""
    steps = system.alignment
    by_search = steps.search_limit_deg > 0 or steps.refine_steps > 0
    return steps.network or steps.centre or by_search


def is_in_plane(system: SystemSettings) -> bool:
    """Whether T can only rotate about z and shift along x and y."""
    about_x, about_y, _ = system.alignment_net.rotation_limit_deg
    _, _, along_z = system.alignment_net.translation_limit
    return about_x == about_y == along_z == 0


def find_view(view_params: Params, volume: Volume, system: SystemSettings) -> View:
    """View of each head by all steps of the system; no gradient flows through it."""
    volume = jax.lax.stop_gradient(volume)
    steps = system.alignment
    view = first_view(view_params, volume, system)
    small = coarse(volume)
    if _looks_everywhere(system):
        view = _best_start(volume, view, system)
    elif steps.search_limit_deg > 0:
        view = _search_angle(small, view, system, steps.search_limit_deg)
    if steps.refine_steps > 0:
        view = refine_view(small, view, system)
    if _looks_everywhere(system):
        view = upright(small, view, system)
    return jax.lax.stop_gradient(view)


def _looks_everywhere(system: SystemSettings) -> bool:
    """Whether a head may be turned by any angle."""
    steps = system.alignment
    return steps.search_everywhere and steps.search_limit_deg > 0


def first_view(view_params: Params, volume: Volume, system: SystemSettings) -> View:
    """Centre of mass and network T, as far as the system uses them."""
    view = jnp.zeros((volume.shape[0], 6), jnp.float32)
    if system.alignment.centre:
        view = centre_view(volume)
    if system.alignment.network:
        centred, _, _ = align_volume(volume, view, system)
        view = view + apply_alignment_net(
            view_params, centred, system.alignment_net, precision=system.precision
        )
    return view


def search_view(volume: Volume, system: SystemSettings, limit_deg: float) -> View:
    """The answer without T: centre of mass, then a search over +- `limit_deg`."""
    return _search_angle(coarse(volume), centre_view(volume), system, limit_deg)


def centre_view(volume: Volume) -> View:
    """Shift in plane that brings the centre of the head's voxels to the centre."""
    inside = (volume[..., 0] > 0).astype(jnp.float32)
    mass = jnp.maximum(inside.sum((1, 2, 3)), 1.0)
    shift_x = (inside.sum((1, 2)) * centres(volume.shape[3])).sum(-1) / mass
    shift_y = (inside.sum((1, 3)) * centres(volume.shape[2])).sum(-1) / mass
    zero = jnp.zeros_like(mass)
    return jnp.stack([zero, zero, zero, shift_x, shift_y, zero], axis=-1)


def centres(size: int) -> Float[Array, " size"]:
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
    """Mean of blocks of up to `most` voxels (z y x), as many as fill the volume."""
    b, z, y, x, c = volume.shape
    fz, fy, fx = map(largest_divisor, (z, y, x), most)
    blocks = volume.reshape(b, z // fz, fz, y // fy, fy, x // fx, fx, c)
    return blocks.mean((2, 4, 6))


def largest_divisor(size: int, most: int) -> int:
    """The largest number up to `most`, or 1, that divides `size`."""
    return next(n for n in range(max(min(most, size), 1), 0, -1) if size % n == 0)


def _best_start(volume: Volume, view: View, system: SystemSettings) -> View:
    """The best of the angles around a view, or of every angle about the centre of mass.

    Both are refined, then the one that mirrors better counts, so that T has no say
    where it was misled.
    """
    small, limit = _rough(volume, system), system.alignment.search_limit_deg
    anew = _turned_best(small, centre_view(volume), system, _every_angle())
    views = jnp.stack([_search_angle(small, view, system, limit), anew])
    if system.alignment.refine_steps > 0:
        views = jax.vmap(lambda view: refine_view(small, view, system))(views)
    losses = jax.vmap(lambda view: unlikeness(small, view, system))(views)
    best = jnp.argmin(losses, axis=0)
    return jnp.take_along_axis(views, best[None, :, None], axis=0)[0]


def _every_angle() -> Float[Array, " n"]:
    """Turns in degrees that meet every mirror line."""
    return _turns_deg(90.0, EVERY_DEG)[1:]


def _search_angle(
    volume: Volume, view: View, system: SystemSettings, limit_deg: float
) -> View:
    """The view that mirrors best among angles up to `limit_deg` from the given one."""
    turns = _turns_deg(limit_deg, system.alignment.search_step_deg)
    return _turned_best(volume, view, system, turns)


def _turns_deg(limit: float, step: float) -> Float[Array, " n"]:
    """Turns in degrees at equal steps up to +- `limit`."""
    count = round(limit / step)
    return step * jnp.arange(-count, count + 1, dtype=jnp.float32)


def _turned_best(
    volume: Volume, view: View, system: SystemSettings, turns: Float[Array, " n"]
) -> View:
    """The view that mirrors best among turns (degrees) of the given one."""
    losses = _unlikeness_turned(volume, view, system, turns)
    best = jnp.deg2rad(turns)[jnp.argmin(losses, axis=0)]
    return view.at[:, 2].add(best)


def _unlikeness_turned(
    volume: Volume, view: View, system: SystemSettings, turns: Float[Array, " n"]
) -> Float[Array, "n b"]:
    """`unlikeness` of each turn (degrees) of a view."""

    def loss_at(turn: Float[Array, ""]) -> Float[Array, " b"]:
        return unlikeness(volume, view.at[:, 2].add(turn), system)

    return jax.lax.map(loss_at, jnp.deg2rad(turns), batch_size=TURNS_AT_ONCE)


def unlikeness(
    volume: Volume, view: View, system: SystemSettings
) -> Float[Array, " b"]:
    """mean |X - X'| over mean X: 0 is a symmetric head, 2 one without a partner.

    Unlike mean |X - X'| it does not fall where the grid cuts the turned head.
    """
    aligned, _, _ = align_volume(volume, view, system)
    distance = jnp.abs(aligned - mirror(aligned)).mean((1, 2, 3, 4))
    return distance / jnp.maximum(aligned.mean((1, 2, 3, 4)), 1e-6)


def mirror_distance(
    volume: Volume, view: View, system: SystemSettings
) -> Float[Array, " b"]:
    """mean |X - X'| of each head (equation 1)."""
    aligned, _, _ = align_volume(volume, view, system)
    return jnp.abs(aligned - mirror(aligned)).mean((1, 2, 3, 4))


def refine_view(volume: Volume, view: View, system: SystemSettings) -> View:
    """Lower each head's mirror loss by Adam on its angle and its shift across the line.

    A shift along the mid-line changes nothing. A head keeps its start where the steps
    did not lower its loss.
    """
    steps, rate = system.alignment.refine_steps, system.alignment.refine_rate
    adam = optax.scale_by_adam(b1=0.8, b2=0.95)
    across = matrices(view, system)[0][:, :3, 0]

    def moved(change: Float[Array, "b 2"]) -> View:
        turn, shift = change[:, :1], change[:, 1:] * across
        still = jnp.zeros_like(turn)
        return view + jnp.concatenate([still, still, turn, shift], axis=1)

    def distances(
        change: Float[Array, "b 2"],
    ) -> tuple[Float[Array, ""], Float[Array, " b"]]:
        distance = mirror_distance(volume, moved(change), system)
        return distance.sum(), distance

    def step(carry, falling_rate):
        change, state, best, best_distance = carry
        gradient, distance = jax.grad(distances, has_aux=True)(change)
        best = jnp.where((distance < best_distance)[:, None], change, best)
        direction, state = adam.update(gradient, state)
        change = change - falling_rate * direction
        return (change, state, best, jnp.minimum(distance, best_distance)), None

    start = jnp.zeros_like(view[:, :2])
    unknown = jnp.full(view.shape[:1], jnp.inf, jnp.float32)
    rates = rate * (1 - jnp.arange(steps, dtype=jnp.float32) / steps)
    carry = (start, adam.init(start), start, unknown)
    (_, _, best, _), _ = jax.lax.scan(step, carry, rates)
    return moved(best)


def upright(volume: Volume, view: View, system: SystemSettings) -> View:
    """The view or half a turn from it, so that the head's front is X's front.

    Nearest to the grid's own front, unless the brain's shape says clearly otherwise.
    """
    angle = view[:, 2]
    view = view.at[:, 2].add(-jnp.pi * jnp.round(angle / jnp.pi))
    aligned, _, _ = align_volume(volume, view, system)
    over = skewness(aligned) < UPSIDE_DOWN
    return view.at[:, 2].add(jnp.where(over, jnp.pi, 0.0))


def skewness(aligned: Volume) -> Float[Array, " b"]:
    """Skewness of the brain's voxels along y: above 0 where the front is the front.

    The brain is widest behind its middle, tapers to the front, and has the cerebellum
    at the back.
    """
    inside = (aligned[..., 0] > 0).astype(jnp.float32).sum((1, 3))
    share = inside / jnp.maximum(inside.sum(1, keepdims=True), 1.0)
    along = centres(aligned.shape[2])
    away = along - (share * along).sum(1, keepdims=True)
    variance = (share * away**2).sum(1)
    return (share * away**3).sum(1) / jnp.maximum(variance, 1e-6) ** 1.5


def midline_fit(volume: Volume, view: View, system: SystemSettings) -> MidlineFit:
    """Compare a view with every other angle about its centre."""
    small, fine = _rough(volume, system), coarse(volume)
    turns = _every_angle()
    losses = _unlikeness_turned(small, view, system, turns)
    apart = jnp.abs(turns)[:, None] > APART_DEG
    aligned, _, _ = align_volume(fine, view, system)
    return MidlineFit(
        unlikeness(small, view, system),
        jnp.where(apart, losses, jnp.inf).min(axis=0),
        _rival_line(fine, view, system),
        skewness(aligned),
    )


def _rival_line(
    volume: Volume, view: View, system: SystemSettings
) -> Float[Array, " b"]:
    """`MidlineFit.rival`: a head that is rolled or bent can have two mirror lines."""
    turns = _turns_deg(APART_DEG, 1.0)
    losses = _unlikeness_turned(volume, view, system, turns)
    before, within, behind = losses[:-2], losses[1:-1], losses[2:]
    other = (jnp.abs(turns) >= BESIDE_DEG)[1:-1, None]
    is_rival = (within <= before) & (within <= behind) & other
    here = jnp.maximum(losses[turns.size // 2], 1e-6)
    return jnp.where(is_rival, within, jnp.inf).min(axis=0) / here
