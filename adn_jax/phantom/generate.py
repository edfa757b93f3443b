"""Head phantoms with known lesions, tissue and pose, as a raw data set.

They make the demo and the tests independent of patient data, and carry the truth that
no patient data has: which asymmetry is pathological, and how the head lies.
"""

from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from jaxtyping import Bool, Float
from rich.progress import TimeRemainingColumn
from scipy import ndimage
from threadpoolctl import threadpool_limits

from adn_jax.errors import UserError
from adn_jax.io.files import atomic_path, is_vacant, read_json, write_json
from adn_jax.phantom.head import (
    average_slices,
    build_head,
    head_to_world,
    sample_points,
)
from adn_jax.phantom.infarct import add_infarcts
from adn_jax.phantom.settings import EASY, Difficulty
from adn_jax.runtime.jobs import progress_bar, worker_count
from adn_jax.scans.hounsfield import AIR_HU


@dataclass(frozen=True)
class Phantom:
    """One phantom on its scan's grid; `pathological` is the HU lost to the infarcts."""

    ct: Float[np.ndarray, "z y x"]
    lesion: Bool[np.ndarray, "z y x"]
    grey: Float[np.ndarray, "z y x"]
    white: Float[np.ndarray, "z y x"]
    csf: Float[np.ndarray, "z y x"]
    pathological: Float[np.ndarray, "z y x"]
    affine: Float[np.ndarray, "4 4"]
    orientation: str
    truth: dict[str, Any]


def generator(seed: int, index: int, purpose: int) -> np.random.Generator:
    """Random numbers of one purpose in one case, whatever else is drawn."""
    return np.random.default_rng([seed, index, purpose])


@dataclass(frozen=True)
class PhantomScan:
    """How a head is scanned: its pose (x y z), slices, and the stored voxel order."""

    rotation_deg: tuple[float, float, float]
    shift_mm: tuple[float, float, float]
    slice_mm: float
    orientation: str


def draw_scan(rng: np.random.Generator, difficulty: Difficulty) -> PhantomScan:
    """Draw the pose of the head and the settings of the scanner."""
    rotation = rng.uniform(-1, 1, 3) * difficulty.rotation_deg
    shift = rng.uniform(-1, 1, 3) * difficulty.shift_mm
    return PhantomScan(
        rotation_deg=tuple(rotation.tolist()),
        shift_mm=tuple(shift.tolist()),
        slice_mm=round(rng.uniform(*difficulty.slice_mm), 2),
        orientation=str(rng.choice(difficulty.stored_orientations)),
    )


@threadpool_limits.wrap(limits=1, user_api="blas")  # sums depend on their number
def build_phantom(
    seed: int, index: int, difficulty: Difficulty, infarcts: bool = True
) -> Phantom:
    """Build case `index` of a seed; without `infarcts` it is the same head, healthy."""
    scan_rng, head_rng, infarct_rng, noise_rng = (
        generator(seed, index, purpose) for purpose in range(4)
    )
    scan = draw_scan(scan_rng, difficulty)
    pose = head_to_world(np.array(scan.rotation_deg), np.array(scan.shift_mm))
    grid = sample_points(scan.slice_mm, difficulty)
    head = build_head(head_rng, pose, grid, difficulty)
    tissue = head.grey + head.white
    weight, loss, drawn = np.zeros_like(tissue), np.zeros_like(tissue), ()
    if infarcts:
        weight, loss, drawn = add_infarcts(infarct_rng, tissue, pose, grid, difficulty)
    mean = partial(average_slices, per_slice=grid.per_slice)
    affine = grid_affine(grid.x, grid.y, mean(grid.z[:, None, None])[:, 0, 0])
    lesion = (mean(weight) >= 0.5) & (mean(tissue) >= 0.5)
    ct, pathological = mean(head.ct), mean(loss)
    if difficulty.head_holder:
        ct = add_head_holder(ct, affine)
    return Phantom(
        ct=ct - pathological + noise(noise_rng, ct.shape, affine[0, 0], difficulty),
        lesion=lesion,
        grey=mean(head.grey),
        white=mean(head.white),
        csf=mean(head.csf),
        pathological=pathological,
        affine=affine,
        orientation=scan.orientation,
        truth={
            "head_to_world": pose.tolist(),
            "rotation_deg": list(scan.rotation_deg),
            "shift_mm": list(scan.shift_mm),
            "slice_mm": scan.slice_mm,
            "lesion_ml": float(lesion.sum() * np.linalg.det(affine[:3, :3]) / 1000),
            "side": common_side({infarct.side for infarct in drawn}),
            "infarcts": [_read_back(asdict(infarct)) for infarct in drawn],
        },
    )


def common_side(sides: set[str]) -> str:
    """`left`, `right`, `both`, or `none` where there is no infarct."""
    return "both" if len(sides) > 1 else next(iter(sides), "none")


def grid_affine(
    x: Float[np.ndarray, " x"], y: Float[np.ndarray, " y"], z: Float[np.ndarray, " z"]
) -> Float[np.ndarray, "4 4"]:
    """Affine from voxel indices (x y z) to mm, right, front and up."""
    affine = np.eye(4)
    for row, axis in enumerate((x, y, z)):
        affine[row, row] = np.round(np.ptp(axis) / (len(axis) - 1), 4)
        affine[row, 3] = -affine[row, row] * (len(axis) - 1) / 2
    return affine


def noise(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    pixel_mm: float,
    difficulty: Difficulty,
) -> Float[np.ndarray, "z y x"]:
    """Noise in HU, correlated in plane as a smooth reconstruction kernel leaves it."""
    sigma = difficulty.noise_correlation_mm / pixel_mm
    coloured = ndimage.gaussian_filter(
        rng.standard_normal(shape, np.float32), (0, sigma, sigma)
    )
    return coloured * np.float32(difficulty.noise_hu / coloured.std())


def add_head_holder(
    ct: Float[np.ndarray, "z y x"], affine: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "z y x"]:
    """Put a thin curved shell under the back of the head, in air only."""
    x, y = (
        affine[row, 3] + affine[row, row] * np.arange(ct.shape[2 - row])
        for row in (0, 1)
    )
    back = y[(ct > AIR_HU / 2).any((0, 2))].min()
    height = y[:, None] - (back - 3.0 + x**2 / 300)
    shell = np.clip(2.5 - np.abs(height), 0.0, 1.0) * (np.abs(x) < 105)
    air = np.clip((ct - AIR_HU / 2) / (AIR_HU / 2), 0.0, 1.0)
    return (ct + 850.0 * shell * air).astype(np.float32)


def _save_map(
    path: Path, phantom: Phantom, values: np.ndarray, slope: float = 1.0
) -> None:
    """Write one volume in the phantom's voxel order; the same bytes every time.

    Stored values times `slope` are what a reader gets.
    """
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), phantom.affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(phantom.affine),
        nibabel.orientations.axcodes2ornt(phantom.orientation),
    )
    image = image.as_reoriented(turn)
    image.header.set_slope_inter(slope, 0)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)


def write_phantom(folder: Path, phantom: Phantom) -> None:
    """Write one case of a raw data set, whole or not at all."""
    tissue = {"grey": phantom.grey, "white": phantom.white, "csf": phantom.csf}
    brain = phantom.grey + phantom.white + phantom.csf >= 0.5
    ct = np.clip(np.rint(phantom.ct), -1024, 3071).astype(np.int16)
    with atomic_path(folder) as case:
        _save_map(case / "ct.nii.gz", phantom, ct)
        _save_map(case / "lesion.nii.gz", phantom, phantom.lesion.astype(np.uint8))
        for name, share in tissue.items():
            stored = np.rint(255 * share).astype(np.uint8)
            _save_map(
                case / "tissue" / f"{name}.nii.gz", phantom, stored, slope=1 / 255
            )
        truth = case / "truth"
        _save_map(truth / "pathological.nii.gz", phantom, phantom.pathological)
        _save_map(truth / "brain.nii.gz", phantom, brain.astype(np.uint8))
        write_json(truth / "pose.json", phantom.truth)


def case_name(index: int) -> str:
    """Folder of case `index`."""
    return f"phantom_{index:04d}"


def make_case(out: Path, seed: int, difficulty: Difficulty, index: int) -> None:
    """Build and write one case where it is not there yet."""
    folder = out / case_name(index)
    if not folder.exists():
        write_phantom(folder, build_phantom(seed, index, difficulty))


def split_cases(
    cases: int, validation: int | None, test: int | None
) -> dict[str, list[str]]:
    """Names of the training, validation and test cases, in this order."""
    validation = round(0.12 * cases) if validation is None else validation
    test = round(0.18 * cases) if test is None else test
    train = cases - validation - test
    if cases < 1 or validation < 0 or test < 0 or train < 0:
        raise UserError(
            f"{cases} cases with {validation} for validation and {test} for test were "
            "asked for; at least one case is wanted, and the two parts within the "
            "whole: set --cases, --validation and --test."
        )
    names = [case_name(index) for index in range(cases)]
    return {
        "train": names[:train],
        "validation": names[train : train + validation],
        "test": names[train + validation :],
    }


def check_seed(seed: int, end: int | None = None) -> None:
    """Raise `UserError` if heads cannot be drawn by a seed: from 0 on, below `end`."""
    if seed < 0 or (end is not None and seed >= end):
        bound = "" if end is None else f" and below {end}"
        raise UserError(f"--seed is {seed}; it has to be at least 0{bound}.")


def claim_folder(out: Path, settings: dict[str, Any]) -> None:
    """Note what is made in `out`; refuse a folder that holds anything else."""
    record = out / "phantoms.json"
    if record.exists():
        found = read_json(record)
        differing = sorted(
            name for name in settings if found.get(name) != settings[name]
        )
        if differing:
            raise UserError(
                f"{out} holds phantoms of other settings ({', '.join(differing)}); "
                "choose an empty folder, or delete this one."
            )
    elif not is_vacant(out):
        raise UserError(
            f"{out} is not empty and holds no phantoms; choose an empty or new folder."
        )
    else:
        write_json(record, settings)


@contextmanager
def _progress_bar(title: str, total: int) -> Generator[Any]:
    """A bar with the time left; yields the function that counts one case."""
    with progress_bar(TimeRemainingColumn()) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)


def write_phantoms(
    out: Path | str,
    cases: int,
    seed: int = 0,
    difficulty: Difficulty = EASY,
    validation: int | None = None,
    test: int | None = None,
    workers: int | None = None,
) -> dict[str, list[str]]:
    """Write a raw data set of phantoms and return its splits; finished cases are kept.

    Case i depends on the seed, i and the difficulty alone. Of the cases 12 % are for
    validation and 18 % for test where no numbers are given. `workers` None takes one
    process a processor. Raises `UserError` for counts that do not fit and for a folder
    that holds something else.
    """
    check_seed(seed)
    out, splits = Path(out), split_cases(cases, validation, test)
    settings = {"seed": seed, "difficulty": asdict(difficulty), "splits": splits}
    workers = worker_count(workers, cases)
    claim_folder(out, _read_back(settings))
    make = partial(make_case, out, seed, difficulty)
    with _progress_bar("phantoms", cases) as count_one:
        if workers == 1:
            for index in range(cases):
                make(index)
                count_one()
        else:
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                for done in as_completed(map(partial(pool.submit, make), range(cases))):
                    done.result()
                    count_one()
    write_json(out / "splits.json", splits)
    return splits


def _read_back(value: Any) -> Any:
    """A value as JSON gives it back: tuples become lists."""
    if isinstance(value, dict):
        return {key: _read_back(entry) for key, entry in value.items()}
    return [_read_back(entry) for entry in value] if isinstance(value, tuple) else value
