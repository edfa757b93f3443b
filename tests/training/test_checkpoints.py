import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.distributed.mesh import device_mesh, replicate
from adn_jax.errors import UserError
from adn_jax.training.checkpoints import open_checkpoints

PARAMS = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}


def save(checkpoints, step, score=None, params=PARAMS):
    optimizer = {"step": jnp.int32(step), "moments": params}
    progress = {"sums": [0.1, step]}
    checkpoints.save(step, params, optimizer, progress, score)
    checkpoints.wait()


def like(tree):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
    )


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 1)])
def test_latest_and_best_are_kept(tmp_path, mode, best):
    with open_checkpoints(tmp_path / "c", mode) as opened:
        for step, score in [(1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, None)]:
            save(opened, step, score)
        opened.wait()
        assert opened.manager.all_steps() == [best, 4, 5]
        assert (opened.manager.best_step(), opened.manager.latest_step()) == (best, 5)
    with open_checkpoints(tmp_path / "c", mode) as opened:
        assert (opened.manager.best_step(), opened.manager.latest_step()) == (best, 5)


def test_everything_comes_back(tmp_path):
    with open_checkpoints(tmp_path / "c", "min") as opened:
        save(opened, 3, 1.0)
    optimizer = like({"step": jnp.int32(0), "moments": PARAMS})
    with open_checkpoints(tmp_path / "c", "min", read_only=True) as opened:
        params, optimizer, progress = opened.restore_training(
            3, like(PARAMS), optimizer
        )
    np.testing.assert_array_equal(params["kernel"], PARAMS["kernel"])
    assert optimizer["step"] == 3
    assert progress == {"sums": [0.1, 3]}


def test_state_is_the_one_at_the_save_though_its_memory_is_reused(tmp_path):
    step = jax.jit(lambda a: jax.tree.map(lambda x: x + 1, a), donate_argnums=0)
    state = {"a": jnp.zeros((300, 1000)), "b": jnp.zeros((1000,))}
    state = step(state)
    with open_checkpoints(tmp_path / "c", "min") as opened:
        opened.save(1, state, score=0.0)
        for _ in range(20):
            state = step(state)
        opened.wait()
        saved = opened.restore_params(1, like(state))
    assert (saved["a"] == 1).all()
    assert (saved["b"] == 1).all()


def test_saved_on_one_device_restored_on_two(tmp_path):
    with open_checkpoints(tmp_path / "c", "min") as opened:
        save(opened, 1, 0.0)
        target = replicate(PARAMS, device_mesh(2))
        restored = opened.restore_params(1, target)
    assert restored["kernel"].sharding == target["kernel"].sharding
    np.testing.assert_array_equal(restored["kernel"], PARAMS["kernel"])


def test_another_architecture_is_named(tmp_path):
    other = {"kernel": jnp.zeros((2, 4)), "scale": jnp.ones(3)}
    with open_checkpoints(tmp_path / "c", "min") as opened:
        save(opened, 1, 0.0)
        with pytest.raises(UserError) as error:
            opened.restore_params(1, like(other))
    assert "another architecture" in str(error.value)
    assert "bias ((3,) instead of absent)" in str(error.value)
    assert "kernel ((2, 3) instead of (2, 4))" in str(error.value)


def test_damaged_checkpoint_is_named(tmp_path):
    with open_checkpoints(tmp_path / "c", "min") as opened:
        save(opened, 7, 0.0)
    for file in (tmp_path / "c" / "7" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"spoilt")
    with (
        open_checkpoints(tmp_path / "c", "min", read_only=True) as opened,
        pytest.raises(UserError, match=r"checkpoint in .*/c could not be read at step"),
    ):
        opened.restore_params(7, like(PARAMS))


def test_unwritable_folder(tmp_path):
    (tmp_path / "c").write_text("a file in the way")
    with (
        pytest.raises(UserError, match="could not be opened"),
        open_checkpoints(tmp_path / "c", "min"),
    ):
        pass


def test_full_disk_is_found_before_the_save(tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=400_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    message = r"/c has 0\.4 MB left and a checkpoint needs 0\.5 MB; free space"
    with open_checkpoints(tmp_path / "c", "min") as opened:
        with pytest.raises(UserError, match=message):
            save(opened, 1, 0.0)
        assert opened.manager.all_steps() == []
    assert not list((tmp_path / "c").iterdir())
