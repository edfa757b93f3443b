from dataclasses import replace

import jax.numpy as jnp
import pytest

from adn_jax.benchmarks import ours as real_input
from adn_jax.benchmarks.job import SYNTHETIC, Job, draw_cases
from adn_jax.benchmarks.ours import Program
from adn_jax.data.batches import make_batch, open_split
from adn_jax.data.cases import check_sums
from adn_jax.distributed.mesh import device_mesh
from adn_jax.errors import UserError
from tests.training.tiny import small_recipe, write_heads

pytestmark = pytest.mark.usefixtures("unchecked_annotations")


def job(**changes):
    values = {"what": "align", "batch": 2, "repeats": 2, "data": SYNTHETIC}
    return Job("input", small_recipe(), **(values | changes))


def test_a_made_up_data_set_is_a_prepared_one(tmp_path):
    recipe = small_recipe()
    manifest = real_input.write_heads(tmp_path, recipe.system.prepare, 3)
    split = open_split(manifest, "train", needs=("lesion", "tissue"), at_least=3)
    assert split[2]["volume"].shape == recipe.system.prepare.shape
    assert set(split[2]["lesion"].ravel()) == {0, 255}
    assert split[2]["tissue"].max() == 3
    check_sums(tmp_path / "head000")


def test_steps_with_real_and_fixed_input():
    figures = real_input.measure_input(job())
    assert figures.pipeline_s > 0
    assert figures.fixed_s > 0
    assert figures.real_s > 0


def test_a_prepared_data_set_is_taken(tmp_path):
    write_heads(tmp_path)
    with real_input.open_data(job(data=str(tmp_path))) as manifest:
        assert len(manifest.splits["train"]) == 5
    recipe = small_recipe()
    other = recipe.with_fields(
        prepare=replace(recipe.system.prepare, shape=(8, 16, 16))
    )
    wrong = replace(job(data=str(tmp_path)), recipe=other)
    with (
        pytest.raises(UserError, match=r"grid of \(16, 16, 16\) and the recipe's is"),
        real_input.open_data(wrong),
    ):
        pass


def test_a_data_set_is_named_as_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_heads(tmp_path / "heads")
    with real_input.open_data(job(data="~/heads")) as manifest:
        assert len(manifest.splits["train"]) == 5
    with (
        pytest.raises(UserError, match=r"ftp://b/x is in no object store that is"),
        real_input.open_data(job(data="ftp://b/x")),
    ):
        pass


def test_every_step_takes_the_next_batch():
    seen = []
    cases = draw_cases((2, 2, 2), 9)
    batches = [
        make_batch(
            {name: array[i : i + 1] for name, array in cases.items()}, jnp.asarray
        )
        for i in range(9)
    ]
    program = Program(
        function=lambda *given: seen.append(int(given[-1].case[0])),
        state=None,
        frozen=None,
        batch=batches[0],
        trains=False,
        mesh=device_mesh(1),
    )
    left = iter(batches)
    real_input.time_steps(program, left, 6)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert next(left) is batches[6]
