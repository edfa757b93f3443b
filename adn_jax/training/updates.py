"""What trains a stage, compiled before the first stage begins: each has to fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.stages import Lowered, Wrapped

from adn_jax.config import Recipe
from adn_jax.distributed.mesh import CASE_SPEC, placed_shapes, replicated
from adn_jax.geometry.rigid import Pose
from adn_jax.models import network
from adn_jax.models.blocks import remat_on
from adn_jax.runtime.capacity import Demand, compile_to_fit, in_gb
from adn_jax.training.runs import (
    STAGE_MODES,
    former_stages,
    initial_params,
    params_shapes,
)
from adn_jax.training.stages import Stage, needs_search
from adn_jax.training.steps import (
    TrainState,
    TrainStep,
    initial_state,
    make_optimizer,
    make_train_step,
)
from adn_jax.types import Batch, HeadTruth, Key, Params

SURE = 0.9
"""Share of the memory below which an estimate counts as fitting."""

KEPT_BY_REMAT = {"nothing": 1.0, "norms": 0.7, "blocks": 0.45}
"""Share of the maps that the gradient of a U-Net keeps, no less than the compiler of an
H200 planned for a joint step (0.61 and 0.42)."""

KEPT_ON_CPU = KEPT_BY_REMAT | {"norms": 1.0, "blocks": 0.55}
"""The same on a CPU, whose compiler drops the barrier of norms. For blocks it planned
0.51 of a joint step's, with the brain's box and without."""


@dataclass(frozen=True)
class Update:
    """The step of a stage, with what its state begins as."""

    fresh: Callable[[], TrainState]
    step: TrainStep
    key: Key
    """The stage's randomness."""
    seed: int
    """The same as a number, by which its batches are drawn; each stage has its own."""


def make_update(stage: Stage, recipe: Recipe, mesh: Mesh) -> Update:
    """The step of a stage, compiled at its first call."""
    settings = stage.settings
    seed = recipe.seed + list(STAGE_MODES).index(stage.name)
    init_key, step_key = jax.random.split(jax.random.key(seed))
    optimizer = make_optimizer(settings.optimizer, settings.steps)
    ema_decay = settings.optimizer.ema_decay

    def fresh() -> TrainState:
        params = initial_params(init_key, recipe, stage.name)
        return initial_state(params, optimizer, with_ema=ema_decay > 0)

    step = make_train_step(
        stage.loss,
        optimizer,
        step_key,
        replicated(mesh),
        settings.micro_batches,
        ema_decay,
    )
    return Update(fresh, step, step_key, seed)


def begin_with(update: Update, params: Params) -> Update:
    """The same step, whose training begins with these parameters."""
    params = jax.device_get(params)

    def fresh() -> TrainState:
        state = update.fresh()
        ema = None if state.ema is None else params
        return replace(state, params=params, ema=ema)

    return replace(update, fresh=fresh)


def lower_update(
    update: Update, stage: Stage, recipe: Recipe, mesh: Mesh, cases: int | None
) -> Lowered:
    """The step's program for a data set of so many cases (None: drawn heads), not
    compiled.

    The devices of the mesh may be descriptions of some that are not there.
    """
    shape = (stage.settings.batch, *recipe.system.prepare.shape)

    def batch() -> Batch:
        return Batch(
            volume=jnp.zeros((*shape, 1)),
            lesion=jnp.zeros((*shape, 1)),
            tissue=jnp.zeros(shape, jnp.uint8),
            case=jnp.zeros(shape[:1], jnp.int32),
            truth=None if cases is not None else truth(),
        )

    def truth() -> HeadTruth:
        return HeadTruth(
            pathological=jnp.zeros((*shape, 1)),
            tissue=jnp.zeros((*shape, 3)),
            pose=Pose.identity(shape[0]),
            head_to_world=jnp.zeros((shape[0], 4, 4)),
        )

    former = former_stages(recipe, stage.name)
    frozen: dict[str, Any] = {each: params_shapes(recipe, each) for each in former}
    if stage.name == "align" and needs_search(recipe) and cases is not None:
        frozen["search"] = jax.eval_shape(lambda: Pose.identity(cases))
    everywhere, over_cases = replicated(mesh), NamedSharding(mesh, CASE_SPEC)
    assert isinstance(update.step, Wrapped)  # not yet compiled
    with jax.set_mesh(mesh):
        return update.step.lower(
            placed_shapes(jax.eval_shape(update.fresh), everywhere),
            placed_shapes(frozen, everywhere),
            placed_shapes(jax.eval_shape(batch), over_cases),
        )


def compile_update(
    stage: Stage, recipe: Recipe, mesh: Mesh, cases: int | None
) -> Update:
    """The step of a stage, compiled for a data set of so many cases or drawn heads.

    Raises `MemoryShortageError`, with settings that fit, if it needs more memory than
    the device has.
    """
    update, name = make_update(stage, recipe, mesh), stage.name
    grid = " x ".join(map(str, recipe.system.prepare.shape))
    size = f"batch {stage.settings.batch}, {recipe.system.precision}, {grid} voxels"
    sizes, local = mesh.shape, mesh.local_devices
    devices = Devices(local[0].platform, sizes["data"], sizes["spatial"], len(local))
    program = compile_to_fit(
        lower_update(update, stage, recipe, mesh, cases),
        f"an update of stage {name!r} ({size})",
        partial(advise_lighter, name, recipe, devices),
        devices.local,
    )
    return replace(update, step=program)


class Devices(NamedTuple):
    """What a stage is computed on."""

    platform: str
    data: int
    """Devices that have cases of their own."""
    spatial: int
    """Devices that share the rows of a case."""
    local: int
    """Devices of this process."""


class Lighter(NamedTuple):
    """Options of the command line, and the share of the maps that they leave."""

    options: str
    share: float

    def estimate(self, demand: Demand) -> float:
        """Bytes that an update with that demand then needs, about."""
        return demand.fixed + demand.temporaries * self.share


def lighter_settings(
    name: str, recipe: Recipe, devices: Devices, demand: Demand, there: int
) -> list[Lighter]:
    """Settings with which a stage's update fits by estimate, as few as possible.

    Of each combination of kinds the mildest; none if nothing brings it down so far.
    """
    kinds = list(_lighter_kinds(name, recipe, devices))
    for count in range(1, len(kinds) + 1):
        fitting = []
        for chosen in combinations(kinds, count):
            joined = (
                Lighter(
                    " ".join(setting.options for setting in each),
                    float(np.prod([setting.share for setting in each])),
                )
                for each in product(*chosen)
            )
            small = [it for it in joined if it.estimate(demand) <= SURE * there]
            if small:
                fitting.append(max(small, key=lambda it: it.share))
        if fitting:
            return fitting
    return []


def advise_lighter(
    name: str, recipe: Recipe, devices: Devices, demand: Demand, there: int
) -> str:
    """The same as a clause of a sentence."""
    found = lighter_settings(name, recipe, devices, demand, there)
    if not found:
        return (
            "no other batch, precision or recomputation brings it down far enough: "
            "choose a smaller grid (--prepare.shape) or narrower networks, as --size "
            "demo has, or a machine with more memory"
        )
    return "set " + " or ".join(
        f"{it.options} (about {in_gb(round(it.estimate(demand)))})" for it in found
    )


def _lighter_kinds(
    name: str, recipe: Recipe, devices: Devices
) -> Iterator[list[Lighter]]:
    """Kinds of settings that make a stage's update smaller, each mildest first."""
    settings, on_cpu = getattr(recipe, name), devices.platform == "cpu"
    batch, parts = settings.batch, settings.micro_batches
    at_once = batch // parts // devices.data
    yield [
        Lighter(f"--{name}.micro-batches {parts * more}", 1 / more)
        for more in range(2, at_once + 1)
        if at_once % more == 0
    ]
    nets = {"tissue": recipe.tissue_net, "joint": recipe.system.segment_net}
    net = nets.get(name)
    kept_by = KEPT_ON_CPU if on_cpu else KEPT_BY_REMAT
    now = kept_by[remat_on(devices.platform, recipe.system.remat)]
    yield [
        Lighter(f"--remat {how}", kept / now)
        for how, kept in kept_by.items()
        if kept < now and net is not None and not network(net).sees_patches
    ]
    if recipe.system.precision != "bfloat16":
        yield [Lighter("--precision bfloat16", 0.5)]
    step = parts if on_cpu else parts * devices.data
    yield [
        Lighter(f"--{name}.batch {fewer}", fewer / batch)
        for fewer in range(batch - step, 0, -step)
    ]
    if at_once == 1 and parts == 1 and not on_cpu:  # more devices for each case
        now = devices.spatial
        yield [
            Lighter(
                f"--spatial-shards {shards} --{name}.batch {batch * now // shards}",
                now / shards,
            )
            for shards in range(2 * now, devices.local + 1, now)
            if devices.local % shards == 0 and batch % (shards // now) == 0
        ]
