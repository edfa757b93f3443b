"""The authors' checkpoints, made here from the seeded weights, as a run."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from adn_jax.cli import import_torch
from adn_jax.cli.import_torch import main, read_checkpoint
from adn_jax.cli.main import main as adn
from adn_jax.config import AlignmentNetSettings, UNetSettings
from adn_jax.errors import UserError
from adn_jax.models import init_alignment_net, init_unet
from adn_jax.models.torch_names import to_torch
from adn_jax.training.runs import load_run, write_run
from tests import golden

RECIPE = "configs/adn_reference.py"
KEY = jax.random.key(0)


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


class Tensor(np.ndarray):
    """As much of torch's tensor as is read, for where torch is not installed."""

    def float(self):
        return self.astype(np.float32)

    def numpy(self):
        return np.asarray(self)


@pytest.fixture
def import_as(monkeypatch):
    """What `import-torch` makes of small networks by a recipe, or refuses."""

    def imported(config, tissue_outputs=5, outputs=1, inputs=(1, 1), tissue=False):
        def network(settings, inputs=1):
            params = (
                init_alignment_net(KEY, settings, (4, 4, 4))
                if isinstance(settings, AlignmentNetSettings)
                else init_unet(KEY, settings, inputs)
            )
            state = to_torch(params, settings)
            return {name: np.asarray(each).view(Tensor) for name, each in state.items()}

        net = UNetSettings(widths=(8, 16), outputs=outputs)
        files = {
            "T": {"state_dict": network(AlignmentNetSettings(widths=(4, 8)))},
            "DF": {
                "asym_state_dict": network(net, inputs[0]),
                "seg_state_dict": network(net, inputs[1]),
            },
            "G": {"state_dict": network(replace(net, outputs=tissue_outputs))},
        }
        monkeypatch.setattr(
            import_torch, "read_checkpoint", lambda path: files[path.name]
        )
        config = Path("configs") / f"{config}.py"
        given = Path("G") if tissue else None
        return import_torch.import_networks(
            import_torch.ImportTorch(Path("run"), Path("T"), Path("DF"), given, config)
        )

    return imported


@pytest.mark.parametrize(
    ("config", "network"),
    [("resunet", "T"), ("resunet_aligned", "D"), ("clerigues", "D"), ("sean", "D")],
)
def test_a_recipe_without_the_networks_is_refused(config, network, import_as):
    with pytest.raises(UserError, match=f"'{config}' has no network {network}, of"):
        import_as(config)


def test_networks_have_the_channels_of_the_recipe(import_as, tmp_path):
    with pytest.raises(UserError, match=r"D does not fit .*; give .* or a recipe of"):
        import_as("adn_parts")
    recipe, params, tissue = import_as("adn_parts", inputs=(2, 3))
    write_run(tmp_path / "run", recipe, params, tissue)
    read = load_run(tmp_path / "run").params
    jax.tree.map(np.testing.assert_array_equal, read.segment, params.segment)


def test_networks_of_several_outputs_are_refused(import_as):
    with pytest.raises(
        UserError, match=r"disentangle_net\.outputs is 2; it has to be 1"
    ):
        import_as("adn_reference", outputs=2)
    with pytest.raises(UserError, match=r"tissue_net\.outputs is 3; .* at least 4"):
        import_as("adn_reference", tissue_outputs=3, tissue=True)


def test_a_tissue_network_that_is_given_is_used(import_as):
    recipe, _, tissue = import_as("adn_paper", tissue=True)
    assert recipe.tissue_source == "network"
    assert tissue["head"]["bias"].shape == (5,)
