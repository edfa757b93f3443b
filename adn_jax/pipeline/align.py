"""T: finds the mid-sagittal plane of each head and turns it upright.

A view is found in up to four steps, each an option of the recipe: the centre of mass,
network T, a search over the angle, and a refinement of the mirror loss through the
differentiable sampler.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from adn_jax.config import Recipe
from adn_jax.geometry.mirror import mirror
from adn_jax.geometry.rigid import half_extents_mm, view_to_matrices
from adn_jax.geometry.sampler import sample
from adn_jax.models import apply_view_net
from adn_jax.types import Matrix, Params, View, Volume

SEARCH_SIZE = 64
"""In-plane voxels that the search and the refinement need: they run on averages."""


def align_volume(
    volume: Volume, view: View, recipe: Recipe
) -> tuple[Volume, Matrix, Matrix]:
    """X = sample(I, M), with M and its exact inverse; I itself where nothing aligns."""
    matrix, inverse = matrices(view, recipe)
    if not aligns(recipe):
        return volume, matrix, inverse
    return sample(volume, matrix, in_plane=is_in_plane(recipe)), matrix, inverse


def matrices(view: View, recipe: Recipe) -> tuple[Matrix, Matrix]:
    """M and M^-1 of a view on the recipe's grid, a true rotation in mm."""
    extents = half_extents_mm(recipe.prepare.shape, recipe.prepare.spacing_mm)
    return view_to_matrices(view, extents)


def aligns(recipe: Recipe) -> bool:
    """Whether heads are turned at all; baselines on the scan as it lies are not."""
    steps = recipe.alignment
    by_search = steps.search_limit_deg > 0 or steps.refine_steps > 0
    return steps.network or steps.centre or by_search


def is_in_plane(recipe: Recipe) -> bool:
    """Whether T can only rotate about z and shift along x and y."""
    about_x, about_y, _ = recipe.view_net.rotation_limit_deg
    _, _, along_z = recipe.view_net.translation_limit
    return about_x == about_y == along_z == 0


def find_view(view_params: Params, volume: Volume, recipe: Recipe) -> View:
    """View of each head by all steps of the recipe; no gradient flows through it."""
    volume = jax.lax.stop_gradient(volume)
    view = first_view(view_params, volume, recipe)
    small = coarse(volume)
    if recipe.alignment.search_limit_deg > 0:
        view = search_angle(small, view, recipe)
    if recipe.alignment.refine_steps > 0:
        view = refine_view(small, view, recipe)
    return jax.lax.stop_gradient(view)


def first_view(view_params: Params, volume: Volume, recipe: Recipe) -> View:
    """Centre of mass and network T, as far as the recipe uses them."""
    view = jnp.zeros((volume.shape[0], 6), jnp.float32)
    if recipe.alignment.centre:
        view = centre_view(volume)
    if recipe.alignment.network:
        centred, _, _ = align_volume(volume, view, recipe)
        view = view + apply_view_net(
            view_params, centred, recipe.view_net, precision=recipe.precision
        )
    return view


def search_view(volume: Volume, recipe: Recipe, limit_deg: float) -> View:
    """The answer without T: centre of mass, then a search over +- `limit_deg`."""
    return search_angle(coarse(volume), centre_view(volume), recipe, limit_deg)


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
    b, z, y, x, c = volume.shape
    fy, fx = (max(n // SEARCH_SIZE, 1) for n in (y, x))
    if y % fy or x % fx:
        return volume
    return volume.reshape(b, z, y // fy, fy, x // fx, fx, c).mean((3, 5))


def search_angle(
    volume: Volume, view: View, recipe: Recipe, limit_deg: float | None = None
) -> View:
    """The view with the smallest mirror loss among angles around the given one."""
    limit = recipe.alignment.search_limit_deg if limit_deg is None else limit_deg
    count = round(limit / recipe.alignment.search_step_deg)
    step = jnp.deg2rad(jnp.float32(recipe.alignment.search_step_deg))
    turns = step * jnp.arange(-count, count + 1, dtype=jnp.float32)

    def loss_at(turn: Float[Array, ""]) -> Float[Array, " b"]:
        return mirror_distance(volume, view.at[:, 2].add(turn), recipe)

    losses = jax.lax.map(loss_at, turns)
    return view.at[:, 2].add(turns[jnp.argmin(losses, axis=0)])


def mirror_distance(volume: Volume, view: View, recipe: Recipe) -> Float[Array, " b"]:
    """mean |X - X'| of each head (equation 1)."""
    aligned, _, _ = align_volume(volume, view, recipe)
    return jnp.abs(aligned - mirror(aligned)).mean((1, 2, 3, 4))


def refine_view(volume: Volume, view: View, recipe: Recipe) -> View:
    """Lower each head's mirror loss by Adam on its angle and its shift along x.

    A shift along y moves along the mid-line and changes nothing, so it stays. A head
    keeps its start where the steps did not lower its loss.
    """
    steps, rate = recipe.alignment.refine_steps, recipe.alignment.refine_rate
    adam = optax.scale_by_adam(b1=0.8, b2=0.95)
    free = jnp.array([0, 0, 1, 1, 0, 0], jnp.float32)

    def distances(change: View) -> tuple[Float[Array, ""], Float[Array, " b"]]:
        distance = mirror_distance(volume, view + free * change, recipe)
        return distance.sum(), distance

    def step(carry, falling_rate):
        change, state, best, best_distance = carry
        gradient, distance = jax.grad(distances, has_aux=True)(change)
        best = jnp.where((distance < best_distance)[:, None], change, best)
        direction, state = adam.update(gradient, state)
        change = change - falling_rate * direction
        return (change, state, best, jnp.minimum(distance, best_distance)), None

    start = jnp.zeros_like(view)
    unknown = jnp.full(view.shape[:1], jnp.inf, jnp.float32)
    rates = rate * (1 - jnp.arange(steps, dtype=jnp.float32) / steps)
    carry = (start, adam.init(start), start, unknown)
    (_, _, best, _), _ = jax.lax.scan(step, carry, rates)
    return view + free * best
