import logging
from dataclasses import replace

import jax
import numpy as np
import pytest

from adn_jax.config import (
    AsymmetrySettings,
    DeepMedicSettings,
    JointLossSettings,
    PrepareSettings,
    StageSettings,
    SystemSettings,
    TtaSettings,
    UNetSettings,
)
from adn_jax.data.cases import read_case
from adn_jax.distributed.mesh import device_mesh, replicated
from adn_jax.inference import chain as chain_module
from adn_jax.inference.chain import on_scan_grid, sharing_devices
from adn_jax.inference.system import infer_case, load_system
from adn_jax.models import convolution_cpu
from adn_jax.pipeline.adn import init_adn


@pytest.fixture(scope="module")
def inferred(tiny_data, tiny_params, tiny_recipe):
    return infer_case(tiny_params, read_case(tiny_data / "turned"), tiny_recipe)


def test_maps_are_those_of_the_paper(inferred):
    maps, _ = inferred
    mirrored = maps.aligned[:, :, ::-1]
    np.testing.assert_allclose(
        maps.asymmetry, np.maximum(mirrored - maps.aligned, 0), atol=1e-6
    )
    np.testing.assert_allclose(
        maps.anatomical, maps.asymmetry - maps.pathological, atol=1e-6
    )
    np.testing.assert_allclose(maps.salient, maps.aligned + maps.anatomical, atol=1e-6)
    np.testing.assert_allclose(
        maps.compensated, maps.aligned + maps.pathological, atol=1e-6
    )


def test_masks_are_cut_at_the_threshold(inferred):
    maps, _ = inferred
    assert maps.predicted.sum() == (maps.prediction >= 0.5).sum()
    assert maps.aligned_predicted.sum() == (maps.aligned_prediction >= 0.5).sum()


def test_truth_is_carried_to_the_aligned_grid(inferred, tiny_data):
    maps, outputs = inferred
    case = read_case(tiny_data / "turned")
    assert maps.lesion.sum() == case.lesion.sum()
    assert maps.aligned_lesion.any()
    shared = (maps.aligned_lesion & maps.aligned_truth).sum()
    assert shared > 0.95 * maps.aligned_lesion.sum()
    # The untrained network turns the head by its own angle: the label goes along.
    assert maps.plane.normal @ maps.plane.normal == pytest.approx(1.0, abs=1e-5)
    assert not np.allclose(
        np.asarray(outputs.alignment.matrix[0]), np.eye(4), atol=1e-3
    )


def test_a_case_without_truth_has_none(tiny_data, tiny_params, tiny_recipe):
    case = replace(read_case(tiny_data / "upright"), lesion=None, pathological=None)
    maps, _ = infer_case(tiny_params, case, tiny_recipe)
    assert maps.lesion is maps.aligned_lesion is maps.aligned_truth is None


def test_a_label_never_reaches_a_prediction(tiny_data, tiny_params, tiny_recipe):
    case = read_case(tiny_data / "turned")
    other = replace(case, lesion=1 - case.lesion, pathological=None)
    one, _ = infer_case(tiny_params, case, tiny_recipe)
    two, _ = infer_case(tiny_params, other, tiny_recipe)
    np.testing.assert_array_equal(one.prediction, two.prediction)


def test_sides_are_not_told_where_the_header_does_not(
    inferred, tiny_data, tiny_params, tiny_recipe
):
    case = read_case(tiny_data / "turned")
    unknown = replace(case, source={"sides_known": False})
    maps, _ = infer_case(tiny_params, unknown, tiny_recipe)
    assert inferred[0].knows_sides
    assert not maps.knows_sides


def test_maps_go_back_to_the_scans_grid(inferred):
    maps, outputs = inferred
    moved = on_scan_grid(outputs)
    inside = maps.volume > 0
    inside[[0, -1]] = False
    back = {name: np.asarray(volume[0, ..., 0]) for name, volume in moved.items()}
    np.testing.assert_allclose(
        back["asymmetry"],
        back["pathological"] + back["anatomical"],
        atol=1e-5,
    )
    np.testing.assert_allclose(back["salient_change"], back["anatomical"], atol=1e-5)
    np.testing.assert_allclose(
        back["compensated_change"], back["pathological"], atol=1e-5
    )


def test_one_compilation_serves_all_cases_of_five_runs_of_a_system(
    tiny_data, write_tiny_run, tiny_recipe, caplog
):
    """They differ in name, seed, stages, losses, threshold and averaging."""
    changes = [
        {},
        {"seed": 1},
        {"joint": StageSettings(steps=7)},
        {"joint_loss": JointLossSettings(regularisation=0.0)},
        {"threshold": 0.3, "tta": TtaSettings(mirrored=True)},
    ]
    mine = tiny_recipe.with_fields(asymmetry=AsymmetrySettings(rim_mm=4.0))
    runs = [
        write_tiny_run(f"run{number}", mine.with_fields(name=f"n{number}", **new))
        for number, new in enumerate(changes)
    ]
    system = load_system(runs[0], ensemble=runs[1:])
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for name in ("turned", "healthy"):
            system.infer(read_case(tiny_data / name))
    assert sum("Compiling jit(infer)" in line for line in caplog.messages) == 1


def test_a_head_that_its_box_does_not_hold_is_seen_whole(
    inferred, tiny_data, tiny_params, tiny_recipe
):
    case = read_case(tiny_data / "turned")
    recipe = tiny_recipe.with_fields(box=(8, 24, 20))
    maps, outputs = infer_case(tiny_params, case, recipe)
    (flag,) = set(maps.flags) - set(inferred[0].flags)
    assert "outside the box of 8 x 24 x 20 voxels" in flag
    assert outputs.aligned.shape == (1, *case.volume.shape, 1)
    np.testing.assert_array_equal(maps.prediction, inferred[0].prediction)


def test_maps_of_a_box_lie_on_the_whole_grid(
    inferred, tiny_data, tiny_params, tiny_recipe, monkeypatch
):
    case, (whole, _) = read_case(tiny_data / "turned"), inferred
    monkeypatch.setattr(chain_module, "MOST_OUTSIDE", 1.0)
    recipe = tiny_recipe.with_fields(box=(8, 24, 20))
    maps, outputs = infer_case(tiny_params, case, recipe)
    assert outputs.aligned.shape == (1, 8, 24, 20, 1)
    assert maps.flags == whole.flags
    inside = np.zeros_like(whole.aligned)
    inside[:, 12:-12, 10:-10] = whole.aligned[:, 12:-12, 10:-10]
    np.testing.assert_allclose(maps.aligned, inside, atol=1e-6)
    assert maps.aligned_prediction.shape == maps.prediction.shape
    np.testing.assert_array_equal(maps.aligned_lesion, whole.aligned_lesion)


@pytest.fixture
def programs_made_anew():
    """Nothing that another test has compiled is used, nor the other way round."""
    chain_module.compiled_chain.cache_clear()
    yield
    chain_module.compiled_chain.cache_clear()


@pytest.mark.usefixtures("programs_made_anew")
def test_devices_that_share_a_scan_find_what_one_finds(
    tiny_data, tiny_recipe, monkeypatch
):
    net = UNetSettings(widths=(2, 4), groups=2)
    recipe = tiny_recipe.with_fields(disentangle_net=net, segment_net=net)
    params = init_adn(jax.random.key(3), recipe.system)
    case = read_case(tiny_data / "turned")
    alone, _ = infer_case(params, case, recipe)
    chain_module.compiled_chain.cache_clear()
    monkeypatch.setattr(chain_module, "SHARED_FROM", 0)
    monkeypatch.setattr(convolution_cpu, "STRIP_BYTES", 2**16)
    assert sharing_devices(recipe.system, jax.local_device_count()) == 2
    shared, outputs = infer_case(params, case, recipe)
    assert outputs.prediction.sharding.num_devices == 1
    for name in ("prediction", "asymmetry", "pathological", "salient"):
        np.testing.assert_allclose(
            getattr(shared, name), getattr(alone, name), atol=2e-5, err_msg=name
        )


def test_devices_share_a_large_scan_whose_rows_they_divide():
    large = SystemSettings()
    assert [sharing_devices(large, there) for there in (1, 3, 7, 64)] == [1, 2, 4, 8]
    boxed = replace(large, box=(32, 160, 128))  # 20 rows on the deepest level
    assert [sharing_devices(boxed, there) for there in (3, 5, 8)] == [2, 4, 4]
    small = replace(large, prepare=PrepareSettings(shape=(16, 64, 64)))
    assert sharing_devices(small, 8) == 1
    patches = replace(large, segment_net=DeepMedicSettings())
    assert sharing_devices(patches, 8) == 1


def test_devices_of_a_cpu_read_one_copy_of_the_parameters():
    kernel = jax.numpy.ones((100, 100))
    seen = chain_module._on_host(kernel)
    placed = jax.device_put(seen, replicated(device_mesh(2, 2)))
    places = {shard.data.unsafe_buffer_pointer() for shard in placed.addressable_shards}
    assert places == {kernel.unsafe_buffer_pointer()}
    key = jax.random.key(0)
    assert chain_module._on_host(key) is key
