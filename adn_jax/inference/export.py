"""A run's chain for others: as one program without this package, or as a small run.

From prepared scans I to X, A, P, Q, Y and O, parameters included. As StableHLO by
jax.export it is the whole chain; ONNX is written through the PyTorch form of the chain
(folder `benchmarks/`) and takes the pose from outside where the system searches it.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float
from rich.progress import track

from adn_jax.config import SystemSettings
from adn_jax.config.serialization import settings_to_json
from adn_jax.data.cases import PreparedCase, read_case
from adn_jax.data.known_heads import KnownHeads
from adn_jax.data.known_lesions import ENOUGH, HeadLesions, KnownLesions
from adn_jax.data.manifest import Manifest, check_grid, read_manifest
from adn_jax.errors import UserError
from adn_jax.inference.chain import MOST_OUTSIDE
from adn_jax.inference.maps import Lesions
from adn_jax.inference.system import infer_case, tta_of
from adn_jax.io.files import atomic_path, check_replaceable, write_json
from adn_jax.io.paths import Place, spelled_out
from adn_jax.pipeline.adn import AdnParams, apply_adn
from adn_jax.runtime.named import named_function
from adn_jax.runtime.platform import versions
from adn_jax.training.learnt import learnt_cases, not_known
from adn_jax.training.runs import (
    WEIGHTS,
    Run,
    TrainedModel,
    check_vacant,
    model_of,
    write_small_run,
)

ProgramFormat = Literal["stablehlo", "onnx"]

Format = Literal[ProgramFormat, "weights"]

ExportPlatform = Literal["cpu", "cuda", "rocm", "tpu"]

PLATFORMS: tuple[ExportPlatform, ...] = ("cpu", "cuda", "tpu")
"""For which StableHLO is lowered where nothing else is asked for."""

ExportedMaps = dict[str, Float[Array, "*b z y x"] | Float[Array, "*b 4 4"]]

DESCRIPTION = "model.json"
"""Says what goes in and what comes out; the sign of an exported model."""

EXPORT_FILES: dict[ProgramFormat, str] = {
    "stablehlo": "model.stablehlo",
    "onnx": "model.onnx",
}

VOLUME = (
    "I: prepared scan, HU window mapped to 0 to 1, 0 outside the brain; x grows to the "
    "patient's right, y to the front, z to the head"
)

MEANINGS = {
    "aligned": "X: the scan with its mid-sagittal plane at the centre of x",
    "asymmetry": "A: how much darker than the mirror voxel, in window units, on X's "
    "grid",
    "pathological": "P: what D takes for ischaemia, on X's grid: its sigmoid, 0 to 1, "
    "or that times A, as the recipe has it",
    "anatomical": "Q: A - P, or its positive part, as the recipe has it",
    "aligned_prediction": "Y: probability of infarct on X's grid",
    "prediction": "O: probability of infarct on the scan's own prepared grid",
    "matrix": "M: from normalised (x, y, z) coordinates of X's grid to those of I's, "
    "-1 and 1 at the outer faces",
}
"""Every output, as far as the system has it."""

ONNX_WRITER = "benchmarks.torch_reference.as_onnx", "write_onnx"


def export_model(
    run: Place | str,
    out: Path,
    format: Format = "stablehlo",  # noqa: A002
    platforms: Sequence[ExportPlatform] | None = None,
    heads: Place | str | None = None,
    step: int | None = None,
) -> Path:
    """Write `out/model.stablehlo` or `out/model.onnx`, and `out/model.json`.

    As weights, `out` becomes a run of few MB (`write_small_run`).

    Args:
        run: a finished run.
        out: a new folder, or one of an earlier program, which is replaced.
        format: stablehlo (read by `jax.export.deserialize`), onnx, or weights.
        platforms: for which StableHLO is lowered; None: `PLATFORMS`.
        heads: of weights, a prepared data set; its training cases stand for what the
            run has learnt, and scans unlike them are flagged (`data.known_heads`). If
            they have labels, the run itself not having learnt from them, they tell how
            often its lesions are true (`data.known_lesions`).
        step: of which checkpoint of stage joint, one that is kept; None: the best.

    Raises:
        UserError: no finished run, no such checkpoint, another folder, a package that
            is missing, a system that the format cannot hold, heads for a program, or
            platforms for another format.
    """
    chosen = _chosen_platforms(format, platforms)
    source = Run.open(run) if step is None else Run.open(run).at_step(step)
    if format == "weights":
        check_vacant(out)  # before minutes of measuring
        if heads is None:
            known = KnownHeads.read(source.folder), KnownLesions.read(source.folder)
        else:
            known = measure_heads(model_of(source), heads)
        write_small_run(source, out, *known)
        return out / WEIGHTS
    if heads is not None:
        raise UserError(
            f"{heads} was given to be measured, but a program tells nothing of scans "
            "unlike them; take --format weights, or leave --heads out."
        )
    check_replaceable(out, DESCRIPTION, EXPORT_FILES.values())
    model = model_of(source)
    with atomic_path(out) as temporary:
        temporary.mkdir()
        path = temporary / EXPORT_FILES[format]
        about: dict[str, Any] = {"inputs": ["volume"], "platforms": list(chosen)}
        if format == "stablehlo":
            path.write_bytes(to_stablehlo(model, chosen))
        else:
            about = named_function(*ONNX_WRITER, "writer of ONNX")(model, path)
        described = describe_program(model, format, about.pop("inputs"))
        write_json(temporary / DESCRIPTION, described | about)
    return out / EXPORT_FILES[format]


def _chosen_platforms(
    form: Format, platforms: Sequence[ExportPlatform] | None
) -> Sequence[ExportPlatform]:
    """The platforms that were asked for, or the usual ones; `UserError` if the format
    has none, none is named, or one is twice."""
    if platforms is None:
        return PLATFORMS
    if form != "stablehlo":
        raise UserError(
            f"platforms are given, but {form} is written for none; leave --platforms "
            "out, or take --format stablehlo."
        )
    if not platforms or len(set(platforms)) < len(platforms):
        raise UserError(
            f"the platforms are {', '.join(platforms) or 'none at all'}; name one or "
            "more, each once."
        )
    return platforms


def measure_heads(
    model: TrainedModel, data: Place | str
) -> tuple[KnownHeads, KnownLesions | None]:
    """The ranges of a data set's training cases, and how often lesions that the model
    predicts are true: in the same cases, or, if it has learnt from them, in those for
    validation.

    Raises `UserError` if they were prepared on another grid than the model's.
    """
    manifest = model.run.splits_of(read_manifest(data))
    check_grid(model.recipe, manifest)
    heads = KnownHeads.of(_cases_of(manifest, "train"), manifest.settings)
    learnt = learnt_cases(model.run, manifest, manifest.cases)
    if learnt is None:
        print(
            "adn: how often its lesions are true is not told: "
            f"{not_known(model.run, manifest)}",
            file=sys.stderr,
        )
        return heads, None
    train = set(manifest.splits.get("train", ()))
    has_learnt_them = model.run.data == spelled_out(
        manifest.folder
    ) or not train.isdisjoint(learnt)
    unseen = _cases_of(manifest, "validation" if has_learnt_them else "train")
    found = [
        find_lesions(model, case)
        for case in unseen
        if case.lesion is not None and case.name not in learnt
    ]
    lesions = KnownLesions.of(found)
    if lesions is None:
        true = sum(np.count_nonzero(head.hit) for head in found)
        false = sum(np.count_nonzero(~head.hit) for head in found)
        print(
            f"adn: how often its lesions are true is not told: in {len(found)} heads "
            f"with labels it predicts {true} true and {false} false ones, and {ENOUGH} "
            "of each are needed.",
            file=sys.stderr,
        )
    return heads, lesions


def _cases_of(manifest: Manifest, split: str) -> Iterator[PreparedCase]:
    """The cases of a split, with progress."""
    for name in track(manifest.splits.get(split, ()), split, transient=True):
        yield read_case(manifest.case_folder(name))


def find_lesions(model: TrainedModel, case: PreparedCase) -> HeadLesions:
    """The lesions that a model predicts in a case with a label, if they are not too
    small to count."""
    maps, _ = infer_case(model.params, case, model.recipe)
    assert maps.lesion is not None
    found = Lesions.of(maps.predicted)
    volume_ml = found.volumes_ml(maps.spacing_mm)
    large = volume_ml >= model.recipe.least_lesion_ml
    measures = volume_ml, found.means(maps.prediction), found.hits(maps.lesion)
    return HeadLesions(
        *(each[large] for each in measures),
        has_infarct=bool(maps.lesion.any()),
    )


def to_stablehlo(model: TrainedModel, platforms: Sequence[ExportPlatform]) -> bytes:
    """The chain as `jax.export` serialises it: {"volume": (b, z, y, x)} to `MEANINGS`.

    The number of cases is free: they go through the chain one after the other, as
    programs for one case depend on its size alone.
    """
    if find_spec("flatbuffers") is None:
        raise UserError(
            "jax.export needs flatbuffers to write a program; install it with: pip "
            "install 'adn-jax[export]'."
        )
    params, system = model.params, model.recipe.system

    def chain(volume: Float[Array, "z y x"]) -> ExportedMaps:
        maps, outside = chain_maps(params, volume[None], system)
        if system.box is not None:  # as `infer_scan`: a larger head is seen whole
            whole = partial(chain_maps, params, volume[None], replace(system, box=None))
            too_large = outside[0] > MOST_OUTSIDE
            maps = jax.lax.cond(too_large, lambda: whole()[0], lambda: maps)
        return {name: one[0] for name, one in maps.items()}

    @jax.jit
    def run(volume: Float[Array, "b z y x"]) -> ExportedMaps:
        return jax.lax.map(chain, volume)

    sizes = ", ".join(map(str, ("b", *system.prepare.shape)))
    volume = jax.ShapeDtypeStruct(export.symbolic_shape(sizes), jnp.float32)
    return bytes(export.export(run, platforms=platforms)(volume).serialize())


def chain_maps(
    params: AdnParams, volume: Float[Array, "b z y x"], system: SystemSettings
) -> tuple[ExportedMaps, Float[Array, " b"]]:
    """The outputs of the chain that `MEANINGS` names, without channels, those of X on
    the whole grid about its box; and the fraction of each head outside that."""
    outputs = apply_adn(params, volume[..., None], system)
    alignment = outputs.alignment
    maps = {"matrix": alignment.matrix, "prediction": outputs.prediction[..., 0]}
    for name in MEANINGS.keys() - maps.keys():
        if (found := getattr(outputs, name)) is not None:
            maps[name] = alignment.in_whole(found)[..., 0]
    return maps, alignment.fraction_outside(volume[..., None])


def describe_program(
    model: TrainedModel, form: ProgramFormat, inputs: Sequence[str]
) -> dict[str, Any]:
    """What goes into an exported model and what comes out, as JSON values."""
    recipe = model.recipe
    prepare = recipe.system.prepare
    grid = ["b", *prepare.shape]
    volume = jax.ShapeDtypeStruct((1, *prepare.shape), jnp.float32)
    found, _ = jax.eval_shape(
        lambda one: chain_maps(model.params, one, recipe.system), volume
    )
    shapes = {"volume": grid} | {
        name: ["b", *one.shape[1:]] for name, one in found.items()
    }

    def told(name: str) -> dict[str, Any]:
        meaning = VOLUME if name == "volume" else MEANINGS[name]
        return {"shape": shapes[name], "type": "float32", "meaning": meaning}

    return {
        "purpose": "research only, not for diagnosis",
        "format": form,
        "inputs": {name: told(name) for name in inputs},
        "outputs": {
            name: told(name)
            for name in MEANINGS
            if name in found and name not in inputs
        },
        "spacing_mm": list(prepare.spacing_mm),
        "window_hu": list(prepare.window_hu),
        "threshold": recipe.threshold,
        "least_lesion_ml": recipe.least_lesion_ml,
        "not_in_it": "preparation of the scan, test-time augmentation (tta), leaving "
        "out lesions too small or too doubtful to count, and the judgement whether "
        "there is a mid-line",
        "tta": settings_to_json(tta_of([recipe])),
        "recipe": recipe.name,
        "run": model.run.folder.name,
        "steps": model.run.steps,
        "versions": versions(),
    }
