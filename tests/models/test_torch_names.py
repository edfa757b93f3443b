from dataclasses import replace

import numpy as np
import pytest

from adn_jax.config import AlignmentNetSettings, UNetSettings
from adn_jax.errors import UserError
from adn_jax.models.torch_names import from_torch, to_torch, torch_widths
from tests import golden

WIDTHS = (8, 16, 32, 64)
NETWORKS = {
    "T": AlignmentNetSettings(),
    "resunet_f8": UNetSettings(widths=WIDTHS),
    "unet_f8": UNetSettings(kind="unet", widths=WIDTHS),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_there_and_back_gives_the_same_state(network):
    state, settings = golden.parameters(network, 1), NETWORKS[network]
    back = to_torch(from_torch(state, settings, network), settings)
    assert set(back) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)


@pytest.mark.parametrize("network", NETWORKS)
def test_widths_are_read_from_the_shapes(network):
    settings = NETWORKS[network]
    assert torch_widths(golden.parameters(network, 1), settings) == settings.widths
    assert torch_widths({}, settings) == ()


def test_wrong_names_and_shapes_are_listed_in_one_sentence():
    state = golden.parameters("resunet_f8", 1)
    del state["final_conv.bias"]
    state["final_conv.scale"] = np.zeros(1, np.float32)
    state["encoders.1.basic_module.conv1.groupnorm.bias"] = np.zeros(9, np.float32)
    with pytest.raises(UserError) as error:
        from_torch(state, NETWORKS["resunet_f8"], "D")
    message = str(error.value)
    assert message.startswith("the checkpoint of D does not fit a residual_unet")
    assert "missing: final_conv.bias;" in message
    assert "unknown: final_conv.scale;" in message
    assert (
        "of another shape: encoders.1.basic_module.conv1.groupnorm.bias (9)" in message
    )
    assert "\n" not in message


def test_flat_levels_are_refused():
    flat = replace(NETWORKS["resunet_f8"], in_plane_levels=1)
    with pytest.raises(UserError, match=r"D has in_plane_levels 1, .*; set it to 0\.$"):
        from_torch({}, flat, "D")


def test_state_of_another_network_is_refused():
    with pytest.raises(UserError, match=r"missing: .*SingleConv1.*unknown: .*conv1"):
        from_torch(golden.parameters("resunet_f8", 1), NETWORKS["unet_f8"], "D")
    narrow = replace(NETWORKS["T"], widths=(32, 64))
    with pytest.raises(UserError, match=r"of T .*unknown: netV\.model3d2\.0\.weight"):
        from_torch(golden.parameters("T", 1), narrow, "T")
