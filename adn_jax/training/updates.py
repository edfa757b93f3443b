"""What trains a stage, compiled before the first stage begins: each has to fit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding
from jax.stages import Wrapped

from adn_jax.config import Recipe, UNetSettings
from adn_jax.distributed.mesh import CASES, replicated
from adn_jax.runtime.capacity import Demand, compile_to_fit, in_gb
from adn_jax.training.runs import (
    STAGE_MODES,
    initial_params,
    params_shapes,
    stages_of,
)
from adn_jax.training.stages import Stage, needs_search
from adn_jax.training.steps import (
    TrainState,
    TrainStep,
    initial_state,
    make_optimizer,
    make_train_step,
)
from adn_jax.types import Batch, Key

SURE = 0.9
"""Share of the memory below which an estimate counts as fitting."""

KEPT_BY_REMAT = {"nothing": 1.0, "norms": 0.7, "blocks": 0.45}
"""Share of the maps that the gradient of a U-Net keeps, no less than the compiler of an
H200 planned for a joint step (0.61 and 0.42)."""


@dataclass(frozen=True)
class Update:
    """The step of a stage, with what its state begins as."""

    fresh: Callable[[], TrainState]
    step: TrainStep
    key: Key
    """The stage's randomness."""


def stage_seed(stage: Stage, recipe: Recipe) -> int:
    """The seed of a stage, of which each has its own."""
    return recipe.seed + list(STAGE_MODES).index(stage.name)


def make_update(stage: Stage, recipe: Recipe, mesh: Mesh) -> Update:
    """The step of a stage, compiled at its first call."""
    settings = stage.settings
    init_key, step_key = jax.random.split(jax.random.key(stage_seed(stage, recipe)))
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
    return Update(fresh, step, step_key)


def compile_update(stage: Stage, recipe: Recipe, mesh: Mesh, cases: int) -> Update:
    """The step of a stage, compiled for a data set of so many cases.

    Raises `MemoryShortageError`, with settings that fit, where it needs more memory
    than the device has.
    """
    update = make_update(stage, recipe, mesh)
    everywhere = replicated(mesh)
    state = placed(jax.eval_shape(update.fresh), everywhere)
    frozen = placed(_frozen_shapes(stage.name, recipe, cases), everywhere)
    batch = placed(_batch_shapes(recipe, stage), NamedSharding(mesh, CASES))
    assert isinstance(update.step, Wrapped)  # not yet compiled
    with jax.set_mesh(mesh):
        lowered = update.step.lower(state, frozen, batch)
    program = compile_to_fit(
        lowered,
        f"an update of stage {stage.name!r} ({in_words(stage, recipe)})",
        partial(lighter_settings, stage.name, recipe, _devices_of(mesh)),
        len(mesh.local_devices),
    )
    return replace(update, step=program)


def in_words(stage: Stage, recipe: Recipe) -> str:
    """What makes an update large."""
    sizes = " x ".join(map(str, recipe.system.prepare.shape))
    return f"batch {stage.settings.batch}, {recipe.system.precision}, {sizes} voxels"


def placed(tree: Any, sharding: Sharding) -> Any:
    """Shapes that lie so on the devices."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
    )


def _frozen_shapes(name: str, recipe: Recipe, cases: int) -> dict[str, Any]:
    """Shapes of what a stage takes from those before it."""
    names = stages_of(recipe)
    shapes: dict[str, Any] = {
        former: params_shapes(recipe, former) for former in names[: names.index(name)]
    }
    if name == "align" and needs_search(recipe):
        shapes["search"] = jax.ShapeDtypeStruct((cases, 6), jnp.float32)
    return shapes


def _batch_shapes(recipe: Recipe, stage: Stage) -> Batch:
    """Shapes of a stage's batches."""
    shape = (stage.settings.batch, *recipe.system.prepare.shape)

    def zeros() -> Batch:
        return Batch(
            volume=jnp.zeros((*shape, 1)),
            lesion=jnp.zeros((*shape, 1)),
            tissue=jnp.zeros(shape, jnp.uint8),
            case=jnp.zeros(shape[:1], jnp.int32),
        )

    return jax.eval_shape(zeros)


class Devices(NamedTuple):
    """What a stage is computed on."""

    platform: str
    data: int
    """Devices that have cases of their own."""
    spatial: int
    """Devices that share the rows of a case."""
    local: int
    """Devices of this process."""


def _devices_of(mesh: Mesh) -> Devices:
    """The devices of a mesh in numbers."""
    sizes, local = mesh.shape, mesh.local_devices
    return Devices(local[0].platform, sizes["data"], sizes["spatial"], len(local))


class Setting(NamedTuple):
    """An option of the command line, and the share of the maps that it leaves."""

    option: str
    share: float


def lighter_settings(
    name: str, recipe: Recipe, devices: Devices, demand: Demand, there: int
) -> str:
    """Settings with which a stage's update fits by estimate, as few as possible."""

    def estimate(settings: Sequence[Setting]) -> float:
        return demand.fixed + demand.temporaries * float(
            np.prod([setting.share for setting in settings])
        )

    kinds = list(_lighter_kinds(name, recipe, devices))
    for count in range(1, len(kinds) + 1):
        fitting = []
        for chosen in combinations(kinds, count):
            each = [c for c in product(*chosen) if estimate(c) <= SURE * there]
            if each:
                mildest = max(each, key=estimate)
                options = " ".join(setting.option for setting in mildest)
                fitting.append(f"{options} (about {in_gb(round(estimate(mildest)))})")
        if fitting:
            return "set " + " or ".join(fitting)
    return (
        "no other batch, precision or recomputation brings it down far enough: choose "
        "a smaller grid (--prepare.shape) or narrower networks, as --size demo has, or "
        "a machine with more memory"
    )


def _lighter_kinds(
    name: str, recipe: Recipe, devices: Devices
) -> Iterator[list[Setting]]:
    """Kinds of settings that make a stage's update smaller, each mildest first.

    On a CPU micro-batches and recomputation save nothing: XLA drops the barriers.
    """
    settings, on_cpu = getattr(recipe, name), devices.platform == "cpu"
    parts = settings.micro_batches
    at_once = settings.batch // parts // devices.data
    if not on_cpu:
        yield [
            Setting(f"--{name}.micro-batches {parts * more}", 1 / more)
            for more in range(2, at_once + 1)
            if at_once % more == 0
        ]
        yield list(_recomputation(name, recipe))
    if recipe.system.precision != "bfloat16":
        yield [Setting("--precision bfloat16", 0.5)]
    step = 1 if on_cpu else parts * devices.data
    yield [
        Setting(f"--{name}.batch {batch}", batch / settings.batch)
        for batch in range(settings.batch - step, 0, -step)
    ]
    if at_once == 1 and parts == 1 and not on_cpu:
        yield list(spatial_shards(name, recipe, devices))


def _recomputation(name: str, recipe: Recipe) -> Iterator[Setting]:
    """Stronger recomputation, where the stage trains a U-Net."""
    net = {"tissue": recipe.tissue_net, "joint": recipe.system.segment_net}.get(name)
    if not isinstance(net, UNetSettings):
        return
    now = KEPT_BY_REMAT[recipe.system.remat]
    for how, kept in KEPT_BY_REMAT.items():
        if kept < now:
            yield Setting(f"--remat {how}", kept / now)


def spatial_shards(name: str, recipe: Recipe, devices: Devices) -> Iterator[Setting]:
    """More devices for each case, where a device has one case alone."""
    now, batch = devices.spatial, getattr(recipe, name).batch
    for shards in range(2 * now, devices.local + 1, now):
        if devices.local % shards == 0 and batch % (shards // now) == 0:
            fewer = f"--{name}.batch {batch * now // shards}"
            yield Setting(f"--spatial-shards {shards} {fewer}", now / shards)
