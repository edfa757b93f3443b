"""Run folders: the recipe, the data set, which stages are finished, their best weights.

`RUN/config.json` holds the recipe, `RUN/stages.json` the finished stages and
`RUN/checkpoints/<stage>/` the weights.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from typing import Any

import jax
import numpy as np

from adn_jax.config import Recipe
from adn_jax.config.serialization import differing_fields, settings_to_json
from adn_jax.config.validation import recipe_from_json, used_settings
from adn_jax.errors import UserError
from adn_jax.io.files import atomic_path, is_there, read_json, write_json
from adn_jax.io.paths import Place, as_place, move_folder, spelled_out
from adn_jax.models import init_unet
from adn_jax.pipeline.adn import init_adn
from adn_jax.training import checkpoints
from adn_jax.training.checkpoints import Mode
from adn_jax.types import AdnParams, Key, Params

STAGE_MODES: dict[str, Mode] = {"align": "min", "tissue": "max", "joint": "max"}
"""Stages in their order, and whether a low or a high validation score is better."""

NEEDS_OF_T = (
    *("prepare", "precision", "seed"),
    *("alignment", "alignment_net", "align_loss", "align"),
)
"""Fields of a recipe on which a trained T depends."""

STAGE_NEEDS = {
    "align": NEEDS_OF_T,
    "tissue": (
        *NEEDS_OF_T,
        *("soft_labels", "tissue_source", "tissue_net", "tissue"),
    ),
}
"""Fields on which what a stage trains depends; the joint stage depends on all."""

PACKAGES = ("adn-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True)
class TrainedModel:
    """A finished run: what is needed to score or predict."""

    recipe: Recipe
    params: AdnParams
    tissue: Params
    """Parameters of the tissue net; None where the recipe has none."""
    data: str | None
    """The prepared data set it was trained on; None for imported weights."""
    steps: dict[str, int]
    """Stage -> step of the weights in use."""


def stages_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of the stages with parameters in this recipe, in their order."""
    wanted = {
        "align": recipe.system.alignment.network,
        "tissue": recipe.tissue_source == "network",
        "joint": True,
    }
    return tuple(stage for stage in STAGE_MODES if wanted[stage])


def initial_params(key: Key, recipe: Recipe, stage: str) -> Params:
    """Fresh parameters of what a stage trains."""
    if stage == "tissue":
        return init_unet(jax.random.fold_in(key, 1), recipe.tissue_net)
    adn = init_adn(key, recipe.system)
    return adn.view if stage == "align" else joint_params(adn)


def joint_params(adn: AdnParams) -> Params:
    """What the joint stage trains: D, where the system has it, and F."""
    trained = {"disentangle": adn.disentangle, "segment": adn.segment}
    return {name: params for name, params in trained.items() if params is not None}


def adn_params(view: Params, joint: Params) -> AdnParams:
    """All parameters of the chain from those of T and of the joint stage."""
    return AdnParams(
        view=view,
        disentangle=joint.get("disentangle"),
        segment=joint["segment"],
    )


def checkpoint_folder(run: Place, stage: str) -> Place:
    """Where a stage keeps its checkpoints."""
    return run / "checkpoints" / stage


def has_checkpoints(run: Place, stage: str) -> bool:
    """Whether a stage, finished or not, has saved anything."""
    folder = checkpoint_folder(run, stage)
    return folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())


def set_stage_aside(run: Place, stage: str) -> Place:
    """Move the checkpoints of a stage out of the way; returns where they are now."""
    folder = checkpoint_folder(run, stage)
    names = (folder.with_name(f"{stage}_before_{number}") for number in count(1))
    aside = next(place for place in names if not place.exists())
    move_folder(folder, aside)
    return aside


def load_run(run: Place | str) -> TrainedModel:
    """Read a finished run with the best weights of each stage.

    Raises `UserError` where there is no run, a stage is not finished, or a checkpoint
    is damaged or of another architecture.
    """
    run = as_place(run)
    config = read_config(run)
    recipe = config_recipe(run, config)
    finished = read_finished(run)
    for stage in stages_of(recipe):
        if stage not in finished:
            raise UserError(
                f"the run {run} is not finished: stage {stage!r} has to be trained; "
                f"run `adn train CONFIG --data DIR --run {run}` to continue."
            )
    params = {stage: load_stage(run, recipe, stage) for stage in stages_of(recipe)}
    return TrainedModel(
        recipe=recipe,
        params=adn_params(params.get("align"), params["joint"]),
        tissue=params.get("tissue"),
        data=config.get("data"),
        steps={stage: finished[stage]["best_step"] for stage in params},
    )


def load_stage(run: Place, recipe: Recipe, stage: str) -> Params:
    """The best weights of a finished stage."""
    like = jax.eval_shape(
        lambda key: initial_params(key, recipe, stage), jax.random.key(0)
    )
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        like,
    )
    step = read_finished(run)[stage]["best_step"]
    folder = checkpoint_folder(run, stage)
    if not (folder / str(step)).is_dir():
        raise UserError(
            f"{folder / str(step)} is missing, the weights of stage {stage!r}; "
            "restore it or train the run again."
        )
    mode = STAGE_MODES[stage]
    with checkpoints.open_checkpoints(
        folder, mode, read_only=True, alone=True
    ) as manager:
        return checkpoints.restore_params(manager, step, like)


def write_run(
    run: Place, recipe: Recipe, params: AdnParams, tissue: Params = None
) -> None:
    """Make a finished run, whole or not at all, of weights that come from elsewhere."""
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"{run} already holds a run or other files; choose a new one.")
    trained = {"align": params.view, "tissue": tissue, "joint": joint_params(params)}
    with atomic_path(run) as temporary:
        write_config(temporary, recipe, data=None)
        for stage in stages_of(recipe):
            write_stage(temporary, stage, trained[stage])


def write_stage(run: Place, stage: str, params: Params, **facts: Any) -> None:
    """Make a finished stage, whole or not at all, of weights that come from elsewhere.

    `facts` join its entry in `stages.json`.
    """
    mode = STAGE_MODES[stage]
    with (
        atomic_path(checkpoint_folder(run, stage)) as folder,
        checkpoints.open_checkpoints(folder, mode, alone=True) as manager,
    ):
        checkpoints.save(manager, 0, mode, jax.device_get(params))
    facts["sha256"] = checksum(params)
    mark_finished(run, stage, {"steps": 0, "best_step": 0, **facts})


def checksum(params: Params) -> str:
    """What tells weights apart that have neither steps nor a score."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def read_config(run: Place) -> dict[str, Any]:
    """Content of `config.json`; `UserError` where `run` is no run."""
    path = run / "config.json"
    if not is_there(path):
        raise UserError(
            f"{run} is no run (it has no config.json); train one with "
            f"`adn train CONFIG --data DIR --run {run}`."
        )
    content = read_json(path)
    if not isinstance(content, Mapping) or "recipe" not in content:
        raise UserError(f"{path} holds no recipe; restore it or train the run again.")
    return dict(content)


def config_recipe(run: Place, config: Mapping[str, Any]) -> Recipe:
    """The recipe in the content of a `config.json`, checked."""
    return recipe_from_json(config["recipe"], f"{run}/config.json: recipe")


def write_config(run: Place, recipe: Recipe, data: Place | None, **more: Any) -> None:
    """Write `config.json`: recipe, data set, versions, and more JSON values."""
    content = {
        "recipe": settings_to_json(recipe),
        "data": None if data is None else spelled_out(data),
        **more,
        "versions": {package: version(package) for package in PACKAGES},
    }
    write_json(run / "config.json", content)


def check_same_recipe(run: Place, recipe: Recipe) -> None:
    """Raise `UserError`, naming the fields, where a finished stage of `run` depends on
    settings that are others in this recipe."""
    old = config_recipe(run, read_config(run))
    for stage in reversed([name for name in STAGE_MODES if name in read_finished(run)]):
        refuse_other_settings(run, stage, old, recipe)


def refuse_other_settings(
    trained: Place, stage: str, old: Recipe, recipe: Recipe
) -> None:
    """Raise `UserError`, naming the fields, where a stage was trained with others."""
    if changed := changed_settings(stage, old, recipe):
        raise UserError(
            f"{trained} was trained with other settings ({listed(changed)}); choose "
            "another --run folder or the settings of this one."
        )


def changed_settings(stage: str, old: Recipe, recipe: Recipe) -> list[str]:
    """A line for each setting that a stage depends on and two recipes differ in."""
    needs = STAGE_NEEDS.get(stage)
    return [
        line
        for line in differing_fields(used_settings(old), used_settings(recipe))
        if needs is None or re.split(r"[. ]", line)[0] in needs
    ]


def listed(changed: Sequence[str]) -> str:
    """The first few of these lines."""
    return "; ".join([*changed[:5], *["and more"] * (len(changed) > 5)])


def read_finished(run: Place) -> dict[str, dict[str, Any]]:
    """Finished stages: their steps, best step and best score."""
    path = run / "stages.json"
    return read_json(path) if is_there(path) else {}


def mark_finished(run: Place, stage: str, facts: dict[str, Any]) -> None:
    """Note in `stages.json` that a stage is finished."""
    write_json(run / "stages.json", {**read_finished(run), stage: facts})
