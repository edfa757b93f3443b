"""`train`: every stage of a recipe that is not finished yet."""

from collections.abc import Sequence
from dataclasses import dataclass

from adn_jax.cli.arguments import Where, WhereRun, parse_with_recipe
from adn_jax.config import ReadSettings
from adn_jax.config.sizes import Size
from adn_jax.data.manifest import has_manifest, parse_fold
from adn_jax.distributed.hosts import is_first, join_processes
from adn_jax.distributed.mesh import spread_over_cores
from adn_jax.io.paths import Place
from adn_jax.runtime.jobs import sharing_processors
from adn_jax.runtime.platform import (
    enable_determinism,
    keep_compiled,
    keep_freed_memory,
)
from adn_jax.training.runs import Run, cases_at_once, stages_of
from adn_jax.training.train import train


@dataclass(frozen=True)
class Train:
    """Train a recipe; the same command again continues where it stopped.

    Any setting of the recipe can be changed: `--section.field value`.
    """

    run: Where
    """Folder of the run: config.json, checkpoints/, metrics.jsonl, tensorboard/."""
    data: Where | None = None
    """Prepared or packed data set, or a raw one (it is prepared into RUN/prepared
    first). Without it heads are drawn while training, none twice (--stream)."""
    size: Size = "full"
    """The recipe as it is, or on a grid of 16 x 64 x 64 voxels with few maps and steps,
    for two CPU cores; settings on the command line change what that gives."""
    workers: int | None = None
    """Processes that prepare a raw data set; as many as cores by default."""
    hu_range: tuple[float, float] | None = None
    """HU to which the scans of a raw data set were clipped before, -17 80 for
    instance."""
    align_run: WhereRun | None = None
    """Another run whose T is used instead of training one, so that systems that differ
    behind it share it."""
    tissue_run: WhereRun | None = None
    """Another run, on phantoms for instance, whose tissue net is used instead of
    training one (--tissue-source network); the data then needs no tissue maps."""
    pretrained: WhereRun | None = None
    """A finished run, or bundled, to start from: T and the tissue net are taken from
    it, D and F begin with its weights (docs/bundled.md)."""
    fold: str = ""
    """Which part of the training and validation cases validates, the others train: 0/5
    to 4/5 for five runs that take turns (docs/evaluation.md); empty: the data set's
    own splits."""
    spatial_shards: int = 1
    """Devices that share the rows (y) of each case, for accelerators whose memory one
    case does not fit into; 1: each has cases of its own, and they exchange less."""
    deterministic: bool = False
    """Ask XLA for the same bits at every run on the same GPUs, at the cost of its
    fastest kernels; CPUs and TPUs give them anyway."""
    dry_run: bool = False
    """Only check recipe, devices, prepared data and folder: nothing is trained or
    written."""
    coordinator: str = ""
    """Several processes that train as one: host:port of process 0, or `auto` (SLURM,
    Open MPI, Kubernetes, TPU pods tell it and the two numbers below)."""
    processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Number of this process, from 0."""


def main(arguments: Sequence[str]) -> None:
    """Train; stopped by SIGTERM or Ctrl-C it saves and exits with 128 + the signal."""
    command, recipe = parse_with_recipe(Train, "train", arguments)
    keep_freed_memory()
    if command.deterministic:
        enable_determinism()
    if not command.dry_run:
        keep_compiled(command.run if command.coordinator else None)
    join_processes(command.coordinator, command.processes, command.process_id)
    if not command.coordinator:
        shared = (command.spatial_shards * cases for cases in cases_at_once(recipe))
        spread_over_cores(sharing_processors(*shared))
    runs = [
        *((stage, command.pretrained) for stage in stages_of(recipe)),
        *(("align", command.align_run), ("tissue", command.tissue_run)),
    ]
    pretrained = {stage: run for stage, run in runs if run is not None}
    signal = train(
        recipe,
        command.data,
        command.run,
        command.workers,
        pretrained,
        command.spatial_shards,
        parse_fold(command.fold) if command.fold else None,
        command.dry_run,
        ReadSettings(hu_range=command.hu_range),
    )
    if command.dry_run:
        print(f"Nothing stands in the way of this training{unseen(command.data)}.")
        return
    if is_first():
        # drawing and scoring take seconds to import that a training never needs
        from adn_jax.evaluation.index import write_index

        write_index(Run.open(command.run))
    if signal:
        print(f"Stopped by signal {signal}; the same command continues.")
        raise SystemExit(128 + signal)
    # drawn heads lie nowhere, so that a run on them names no cases to score
    scored_on = " --data DIR" if command.data is None else ""
    print(f"Every stage is trained: adn evaluate {command.run}{scored_on}")
    print(f"curves: {command.run / 'index.html'}")


def unseen(data: Place | None) -> str:
    """What a dry run cannot look at."""
    if data is None or has_manifest(data):
        return ""
    return ", as far as can be told before its data is prepared"
