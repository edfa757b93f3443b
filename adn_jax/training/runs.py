"""A run's folder: the recipe, the data set, which stages are finished, their weights.

`RUN/config.json` holds the recipe and what the run was begun with, `RUN/stages.json`
the finished stages and `RUN/checkpoints/<stage>/` the weights. A run that is only used
may have them in `RUN/weights.npz` instead.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint.utils import is_checkpoint_finalized

from adn_jax.config import Recipe
from adn_jax.config.serialization import settings_to_json
from adn_jax.config.validation import recipe_from_json
from adn_jax.data.known_heads import KnownHeads
from adn_jax.data.known_lesions import KnownLesions
from adn_jax.data.manifest import Fold, Manifest, parse_fold
from adn_jax.data.stream import DrawnHeads
from adn_jax.distributed.mesh import placed_shapes
from adn_jax.errors import UserError, few_of
from adn_jax.io.files import atomic_path, is_there, is_vacant, read_json, write_json
from adn_jax.io.paths import Place, as_place, move_folder, spelled_out, to_place
from adn_jax.models import init_unet
from adn_jax.pipeline.adn import AdnParams, init_adn
from adn_jax.training.checkpoints import Mode, open_checkpoints
from adn_jax.training.differences import changed_settings, listed, own_terms
from adn_jax.training.weights import read_weights, write_weights
from adn_jax.types import Key, Params

STAGE_MODES: dict[str, Mode] = {"align": "min", "tissue": "max", "joint": "max"}
"""Stages in their order, and whether a low or a high validation score is better."""

TAKEN_STAGES = ("align", "tissue")
"""Stages that can be taken from another run; `joint` can begin with its weights."""

WEIGHTS = "weights.npz"
"""Every stage's weights in half precision, in a run of few MB."""

BUNDLED = Path(__file__).parents[1] / "bundled"
"""The model that comes with the package, a small run, trained on drawn heads alone."""

RUN_PACKAGES = (
    *("adn-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint"),
    "numpy",
)


def run_place(text: str) -> Place:
    """Where a run is: a folder, or the package's own for `bundled`."""
    return BUNDLED if text == BUNDLED.name else to_place(text)


def run_name(place: Place) -> str:
    """What `run_place` reads as the same place, from whatever folder it is called."""
    return BUNDLED.name if place == BUNDLED else spelled_out(place)


def stages_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of the stages with parameters in this recipe, in their order."""
    wanted = {
        "align": recipe.system.alignment.network,
        "tissue": recipe.tissue_source == "network",
        "joint": True,
    }
    return tuple(stage for stage in STAGE_MODES if wanted[stage])


def former_stages(recipe: Recipe, stage: str) -> tuple[str, ...]:
    """The stages before one, whose weights it sees."""
    stages = stages_of(recipe)
    return stages[: stages.index(stage)]


def cases_at_once(recipe: Recipe) -> list[int]:
    """How many cases each stage takes side by side: its batch, or a part of it."""
    stages = (getattr(recipe, name) for name in stages_of(recipe))
    return [stage.batch // stage.micro_batches for stage in stages]


@dataclass
class Run:
    """A run's folder, opened: its files are read and checked once.

    What a method writes is in the fields, too; what other processes write is not.
    """

    folder: Place
    recipe: Recipe
    data: str | None = None
    """The prepared data set it is trained on; None for imported weights, drawn heads
    and small runs."""
    cases_sha256: str | None = None
    """`digest` of the cases it has learnt from; None for imported weights and in old
    runs."""
    learnt_sha256: str | None = None
    """`Manifest.learnt_sha256` of them; None for drawn heads and in old runs."""
    fold: Fold | None = None
    """Which part of the cases validates; None: the data set's own splits."""
    pretrained: Mapping[str, str] = field(default_factory=dict)
    """Stage -> the run that it is taken from, or that `joint` begins with."""
    terms_sha256: Mapping[str, str | None] = field(default_factory=dict)
    """Loss term of the user's own -> checksum of its code; nothing in old runs."""
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Finished stage -> its steps, best step and best score."""

    @classmethod
    def open(cls, folder: Place | str) -> "Run":
        """Read a run, finished or not.

        Raises `UserError` if `folder` is no run or its files are damaged.
        """
        folder = as_place(folder)
        path = folder / "config.json"
        if not is_there(path):
            raise UserError(
                f"{folder} is no run (it has no config.json); train one with "
                f"`adn train CONFIG --data DIR --run {folder}`."
            )
        content = read_json(path)
        if not isinstance(content, Mapping) or "recipe" not in content:
            raise UserError(
                f"{path} holds no recipe; restore it or train the run again."
            )
        taken = {stage: content.get(f"{stage}_run") for stage in STAGE_MODES}
        return cls(
            folder=folder,
            recipe=recipe_from_json(content["recipe"], f"{path}: recipe"),
            data=content.get("data"),
            cases_sha256=content.get("cases_sha256"),
            learnt_sha256=content.get("learnt_sha256"),
            fold=parse_fold(content["fold"]) if content.get("fold") else None,
            pretrained={stage: run for stage, run in taken.items() if run},
            terms_sha256=content.get("terms_sha256", {}),
            finished=read_finished(folder),
        )

    @classmethod
    def find(cls, folder: Place) -> "Run | None":
        """The run in `folder`, as `open`; None if nothing was begun there."""
        begun = is_there(folder / "config.json") or is_there(folder / "stages.json")
        return cls.open(folder) if begun else None

    @classmethod
    def create(
        cls,
        folder: Place,
        recipe: Recipe,
        data: Place | None = None,
        cases_sha256: str | None = None,
        learnt_sha256: str | None = None,
        fold: Fold | None = None,
        pretrained: Mapping[str, str] = MappingProxyType({}),
        terms_sha256: Mapping[str, str | None] = MappingProxyType({}),
    ) -> "Run":
        """Write `config.json`; stages that are finished in `folder` stay so."""
        run = cls(
            folder,
            recipe,
            None if data is None else spelled_out(data),
            cases_sha256,
            learnt_sha256,
            fold,
            pretrained,
            terms_sha256,
            read_finished(folder),
        )
        content = {
            "recipe": settings_to_json(recipe),
            "data": run.data,
            **({} if cases_sha256 is None else {"cases_sha256": cases_sha256}),
            **({} if learnt_sha256 is None else {"learnt_sha256": learnt_sha256}),
            **{f"{stage}_run": source for stage, source in pretrained.items()},
            **({} if fold is None else {"fold": str(fold)}),
            **({"terms_sha256": dict(terms_sha256)} if terms_sha256 else {}),
            "versions": {package: version(package) for package in RUN_PACKAGES},
        }
        write_json(folder / "config.json", content)
        return run

    def splits_of(self, manifest: Manifest) -> Manifest:
        """A data set in the splits of the run's fold, if it is the run's data set."""
        if self.fold is None:
            return manifest
        parts = (manifest.splits.get(name, ()) for name in ("train", "validation"))
        if sum(map(len, parts)) < self.fold.count:
            return manifest
        folded = manifest.with_fold(self.fold)
        return folded if self.cases_sha256 == folded.digest else manifest

    def other_cases(self, data: Manifest | DrawnHeads) -> str:
        """How the cases of a data set differ from those that the run was begun with, as
        far as it is known; empty: they do not."""
        if self.cases_sha256 not in {None, data.digest}:
            return "other cases or splits"
        if None in (pair := {self.learnt_sha256, data.learnt_sha256}) or len(pair) == 1:
            return ""
        return "other scans or labels"

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the recipe's stages (`stages_of`)."""
        return stages_of(self.recipe)

    @property
    def has_learnt(self) -> bool:
        """Whether a stage was trained here, not taken from another run."""
        return any("taken_from" not in facts for facts in self.finished.values())

    @property
    def steps(self) -> dict[str, int]:
        """Finished stage of the recipe -> step of its best weights."""
        return {
            stage: self.finished[stage]["best_step"]
            for stage in self.stages
            if stage in self.finished
        }

    def checkpoints(self, stage: str) -> Place:
        """Folder in which a stage keeps its checkpoints."""
        return self.folder / "checkpoints" / stage

    def kept_steps(self, stage: str) -> list[int]:
        """Steps at which a stage, finished or not, was saved and still is."""
        folder = self.checkpoints(stage)
        return sorted(
            int(each.name)
            for each in (folder.iterdir() if folder.is_dir() else ())
            if each.name.isdecimal() and is_checkpoint_finalized(each)
        )

    def has_checkpoints(self, stage: str) -> bool:
        """Whether a stage, finished or not, has saved anything."""
        return bool(self.kept_steps(stage))

    def at_step(self, step: int) -> "Run":
        """The same run with D and F of another checkpoint than the best.

        Raises `UserError` if a stage is not finished or that checkpoint is not kept.
        """
        self._check_finished()
        kept = self.kept_steps("joint")
        if step not in kept:
            there = f"those of steps {few_of([*map(str, kept)])}" if kept else "none"
            raise UserError(
                f"{self.folder} keeps no weights of step {step} of stage 'joint', but "
                f"{there}; name one of them, or leave the step out for the best."
            )
        facts = {"steps": self.finished["joint"]["steps"], "best_step": step}
        return replace(self, finished={**self.finished, "joint": facts})

    def set_aside(self, stage: str) -> Place:
        """Move the checkpoints of a stage out of the way; returns where they are."""
        folder = self.checkpoints(stage)
        names = (folder.with_name(f"{stage}_before_{number}") for number in count(1))
        aside = next(place for place in names if not place.exists())
        move_folder(folder, aside)
        return aside

    def refresh(self) -> None:
        """Read again which stages are finished, as another process notes it."""
        self.finished = read_finished(self.folder)

    def mark_finished(self, stage: str, facts: dict[str, Any]) -> None:
        """Note in `stages.json` that a stage is finished."""
        self.finished = {**read_finished(self.folder), stage: facts}
        write_json(self.folder / "stages.json", self.finished)

    def params(self, stage: str) -> Params:
        """The best weights of a finished stage, on this process's first device.

        Raises `UserError` if they are missing, damaged or of another architecture.
        """
        if is_there(self.folder / WEIGHTS):
            shapes = params_shapes(self.recipe, stage)
            return read_weights(self.folder / WEIGHTS, stage, shapes)
        step, folder = self.finished[stage]["best_step"], self.checkpoints(stage)
        if not (folder / str(step)).is_dir():
            raise UserError(
                f"{folder / str(step)} is missing, the weights of stage {stage!r}; "
                "restore it or train the run again."
            )
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = placed_shapes(params_shapes(self.recipe, stage), sharding)
        with open_checkpoints(
            folder, STAGE_MODES[stage], read_only=True, alone=True
        ) as checkpoints:
            return checkpoints.restore_params(step, like)

    def all_params(self) -> dict[str, Params]:
        """The best weights of every stage, as `params`.

        Raises `UserError` if a stage is not finished.
        """
        self._check_finished()
        return {stage: self.params(stage) for stage in self.stages}

    def _check_finished(self) -> None:
        """Raise `UserError` if a stage is not."""
        for stage in self.stages:
            if stage not in self.finished:
                raise UserError(
                    f"the run {self.folder} is not finished: stage {stage!r} has to be "
                    f"trained; run `adn train CONFIG --data DIR --run {self.folder}` "
                    "to continue."
                )

    def write_stage(self, stage: str, params: Params, **facts: Any) -> None:
        """Finish a stage, whole or not at all, with weights that come from elsewhere.

        `facts` join its entry in `stages.json`.
        """
        mode = STAGE_MODES[stage]
        with (
            atomic_path(self.checkpoints(stage)) as folder,
            open_checkpoints(folder, mode, alone=True) as checkpoints,
        ):
            checkpoints.save(0, jax.device_get(params))
        facts["sha256"] = checksum(params)
        self.mark_finished(stage, {"steps": 0, "best_step": 0, **facts})

    def check_same_recipe(self, recipe: Recipe) -> None:
        """Raise `UserError`, naming the fields, if a finished stage depends on settings
        that differ in this recipe."""
        for stage in reversed(STAGE_MODES):
            if stage in self.finished:
                check_unchanged(self.folder, self.changed_settings(stage, recipe))

    def changed_settings(self, stage: str, recipe: Recipe) -> list[str]:
        """A line for each setting that a stage depends on and another recipe differs
        in, and for each loss term of the user's own whose code is another now."""
        known = self.terms_sha256
        now = own_terms(recipe, stage) if known else {}
        code = [
            f"the code of {name}"
            for name in known.keys() & now.keys()
            if known[name] != now[name]
        ]
        return changed_settings(stage, self.recipe, recipe) + sorted(code)


def read_finished(folder: Place) -> dict[str, dict[str, Any]]:
    """Content of `stages.json`; empty if no stage of the folder is finished."""
    path = folder / "stages.json"
    return read_json(path) if is_there(path) else {}


def check_unchanged(trained: Place, changed: list[str]) -> None:
    """Raise `UserError` if a stage was trained with settings that have changed."""
    if changed:
        raise UserError(
            f"{trained} was trained with other settings ({listed(changed)}); choose "
            "another --run folder or the settings of this one."
        )


@dataclass(frozen=True)
class TrainedModel:
    """A finished run: what is needed to score or predict."""

    recipe: Recipe
    params: AdnParams
    tissue: Params
    """Parameters of the tissue net; None if the recipe has none."""
    run: Run
    """Where it comes from."""
    heads: KnownHeads | None = None
    """What heads it was trained on, where that was measured."""
    lesions: KnownLesions | None = None
    """How often its lesions are true, where that was measured."""


def load_run(run: Place | str) -> TrainedModel:
    """Read a finished run with the best weights of each stage.

    Raises `UserError` if there is no run, a stage is not finished, or a checkpoint is
    damaged or of another architecture.
    """
    return model_of(Run.open(run))


def model_of(run: Run) -> TrainedModel:
    """The model of a run that was opened, as `load_run`."""
    params = run.all_params()
    adn = adn_params(params.get("align"), params["joint"])
    known = KnownHeads.read(run.folder), KnownLesions.read(run.folder)
    return TrainedModel(run.recipe, adn, params.get("tissue"), run, *known)


def write_run(
    run: Place, recipe: Recipe, params: AdnParams, tissue: Params = None
) -> None:
    """Make a finished run, whole or not at all, of weights that come from elsewhere."""
    check_vacant(run)
    trained = {"align": params.align, "tissue": tissue, "joint": joint_params(params)}
    with atomic_path(run) as temporary:
        written = Run.create(temporary, recipe)
        for stage in written.stages:
            written.write_stage(stage, trained[stage])


def check_vacant(folder: Place) -> None:
    """Raise `UserError` unless a new run can be made in a folder."""
    if not is_vacant(folder):
        raise UserError(
            f"{folder} already holds a run or other files; choose a new one."
        )


def write_small_run(
    source: Run,
    folder: Place,
    heads: KnownHeads | None = None,
    lesions: KnownLesions | None = None,
) -> None:
    """Make a run of few MB of a finished one, whole or not at all.

    It has the recipe, the best weights of each stage in half precision, a checksum of
    the cases that it learnt from, not where they are, and the run with whose weights D
    and F began; every verb that uses a run takes it. With `heads` it tells of scans
    that are unlike them, with `lesions` how often its lesions are true.

    Raises `UserError` if `folder` is taken or a stage of `source` is not finished.
    """
    check_vacant(folder)
    stages = source.all_params()
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        small = Run.create(
            temporary,
            source.recipe,
            cases_sha256=source.cases_sha256,
            fold=source.fold,
            pretrained={
                stage: run
                for stage, run in source.pretrained.items()
                if stage not in TAKEN_STAGES
            },
        )
        write_weights(temporary / WEIGHTS, stages)
        for stage, params in stages.items():
            facts = {**source.finished[stage], "sha256": checksum(params)}
            small.mark_finished(stage, facts)
        for known in (heads, lesions):
            if known is not None:
                known.write(temporary)


def initial_params(key: Key, recipe: Recipe, stage: str) -> Params:
    """Fresh parameters of what a stage trains."""
    if stage == "tissue":
        return init_unet(jax.random.fold_in(key, 1), recipe.tissue_net)
    adn = init_adn(key, recipe.system)
    return adn.align if stage == "align" else joint_params(adn)


def params_shapes(recipe: Recipe, stage: str) -> Params:
    """Shapes and types of what a stage trains."""
    return jax.eval_shape(
        lambda key: initial_params(key, recipe, stage), jax.random.key(0)
    )


def joint_params(adn: AdnParams) -> Params:
    """What the joint stage trains: D, if the system has it, and F."""
    trained = {"disentangle": adn.disentangle, "segment": adn.segment}
    return {name: params for name, params in trained.items() if params is not None}


def adn_params(align: Params, joint: Params) -> AdnParams:
    """All parameters of the chain from those of T and of the joint stage."""
    return AdnParams(
        align=align,
        disentangle=joint.get("disentangle"),
        segment=joint["segment"],
    )


def checksum(params: Params) -> str:
    """What tells weights apart that have neither steps nor a score."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
