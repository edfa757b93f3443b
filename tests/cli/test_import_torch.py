"""The authors' checkpoints, made here from the seeded weights, as a run."""

import sys

import jax
import numpy as np
import pytest

from adn_jax.cli.import_torch import main, read_checkpoint
from adn_jax.cli.main import main as adn
from adn_jax.errors import UserError
from adn_jax.models.torch_names import to_torch
from adn_jax.training.runs import load_run
from tests import golden

RECIPE = "configs/adn_reference.py"


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def checkpoints(torch, tmp_path):
    """T.pth, DF.pth and G.pth as the authors write them (D and F of 8 base maps)."""

    def tensors(state, prefix=""):
        return {prefix + name: torch.tensor(value) for name, value in state.items()}

    tissue = golden.parameters("resunet_f8", 4)
    tissue["final_conv.weight"] = np.repeat(tissue["final_conv.weight"], 5, axis=0)
    tissue["final_conv.bias"] = np.repeat(tissue["final_conv.bias"], 5, axis=0)
    networks = {
        "T.pth": {"state_dict": tensors(golden.parameters("T", 1)), "epoch": 3},
        "DF.pth": {
            "asym_state_dict": tensors(golden.parameters("resunet_f8", 2), "module."),
            "seg_state_dict": tensors(golden.parameters("resunet_f8", 3), "module."),
        },
        "G.pth": {"state_dict": tensors(tissue)},
    }
    for name, content in networks.items():
        torch.save(content, tmp_path / name)
    return tmp_path


def arguments(folder, *more):
    files = ("--t", str(folder / "T.pth"), "--df", str(folder / "DF.pth"))
    return [*files, "--recipe", RECIPE, str(folder / "run"), *more]


def test_checkpoints_become_a_run_with_the_same_numbers(checkpoints, capsys):
    main(arguments(checkpoints, "--tissue", str(checkpoints / "G.pth")))
    assert str(checkpoints / "run") in capsys.readouterr().out
    model = load_run(checkpoints / "run")
    recipe = model.recipe
    assert recipe.system.alignment_net.widths == (32, 64, 128, 256)
    assert (
        recipe.system.disentangle_net.widths
        == recipe.system.segment_net.widths
        == (8, 16, 32, 64)
    )
    assert (recipe.tissue_net.outputs, recipe.tissue_source) == (5, "network")
    for params, settings, network, seed in (
        (model.params.align, recipe.system.alignment_net, "T", 1),
        (model.params.disentangle, recipe.system.disentangle_net, "resunet_f8", 2),
        (model.params.segment, recipe.system.segment_net, "resunet_f8", 3),
    ):
        state = to_torch(params, settings)
        for name, value in golden.parameters(network, seed).items():
            np.testing.assert_array_equal(state[name], value, err_msg=name)
    assert model.tissue["head"]["bias"].shape == (5,)


def test_without_tissue_network_the_run_needs_none(checkpoints):
    main(arguments(checkpoints))
    model = load_run(checkpoints / "run")
    assert model.recipe.tissue_source == "maps"
    assert not jax.tree.leaves(model.tissue)


def test_swapped_files_and_networks_are_named(checkpoints, torch, capsys):
    swapped = arguments(checkpoints)
    swapped[1], swapped[3] = swapped[3], swapped[1]
    with pytest.raises(SystemExit, match="2"):
        adn(["import-torch", *swapped])
    message = capsys.readouterr().err
    assert "the checkpoint of T has no state_dict (it has asym_state_dict" in message

    torch.save({"state_dict": {"fc": torch.ones(2)}}, checkpoints / "T.pth")
    with pytest.raises(
        UserError, match=r"T has none of its parameters .*begins with fc"
    ):
        main(arguments(checkpoints))
    assert not (checkpoints / "run").exists()


def test_unreadable_files_are_named(torch, tmp_path):
    with pytest.raises(UserError, match=r"none\.pth does not exist"):
        read_checkpoint(tmp_path / "none.pth")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"broken\.pth cannot be read as a checkpoint"):
        read_checkpoint(broken)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth holds no table of networks"):
        read_checkpoint(tmp_path / "list.pth")


def test_objects_other_than_weights_are_refused(torch, tmp_path):
    torch.save({"state_dict": pytest.approx}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="weights only"):
        read_checkpoint(tmp_path / "code.pth")


def test_missing_torch_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r'pip install "adn-jax\[torch\]"'):
        read_checkpoint(tmp_path / "T.pth")
