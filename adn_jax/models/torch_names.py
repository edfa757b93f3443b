"""Names and layouts of the authors' PyTorch parameters, both ways (NumPy only)."""

import re
from collections.abc import Mapping
from functools import partial
from itertools import count, takewhile

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from adn_jax.config import AlignmentNetSettings, UNetSettings
from adn_jax.errors import UserError
from adn_jax.models import init_alignment_net, init_unet
from adn_jax.types import Params

U_NET = (
    (r"(en|de)coder_(\d)/", r"\1coders.\2.basic_module."),
    (r"norm/scale", "groupnorm.weight"),
    (r"norm/bias", "groupnorm.bias"),
    (r"convolution/kernel", "conv.weight"),
    (r"up_(\d)/", r"decoders.\1.upsampling.conv3d."),
    (r"head/", "final_conv."),
    (r"kernel$", "weight"),
    (r"/", "."),
)
RULES = {
    "residual_unet": ((r"/conv_", "/conv"), *U_NET),
    "unet": ((r"/conv_", "/SingleConv"), *U_NET),
    "alignment_net": (
        (r"stage_(\d)/down/kernel", r"netV.model3d\1.0.weight"),
        (r"stage_(\d)/norm_(\d)/scale", r"netV.model3d\1.1.gn\2.weight"),
        (r"stage_(\d)/norm_(\d)/bias", r"netV.model3d\1.1.gn\2.bias"),
        (r"stage_(\d)/conv_(\d)/", r"netV.model3d\1.1.conv\2."),
        (r"head/", "netV.fc."),
        (r"kernel$", "weight"),
    ),
}
"""For each network, replacements in order that turn a path of ours into their name."""

LEVEL_KERNELS = {
    "residual_unet": "encoder_{}/conv_3/convolution/kernel",
    "unet": "encoder_{}/conv_2/convolution/kernel",
    "alignment_net": "stage_{}/down/kernel",
}
"""For each network, the parameter that tells a level's feature maps."""

TorchNetSettings = UNetSettings | AlignmentNetSettings
State = Mapping[str, np.ndarray]


def _torch_name(path: str, kind: str) -> str:
    """Their name of our parameter `path` ("encoder_0/conv_1/norm/scale")."""
    for pattern, replacement in RULES[kind]:
        path = re.sub(pattern, replacement, path)
    return path


def to_torch_layout(value: np.ndarray) -> np.ndarray:
    """DHWIO to OIDHW, and linear weights transposed; vectors stay."""
    return np.moveaxis(value, (-1, -2), (0, 1)) if value.ndim > 1 else value


def _from_torch_layout(value: np.ndarray) -> np.ndarray:
    """OIDHW to DHWIO, and linear weights transposed; vectors stay."""
    return np.moveaxis(value, (0, 1), (-1, -2)) if value.ndim > 1 else value


def _expected_params(
    settings: TorchNetSettings, inputs: int = 1
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a network's parameters by path, without computing anything."""
    if isinstance(settings, AlignmentNetSettings):
        shape = (2 ** len(settings.widths),) * 3
        init = partial(init_alignment_net, settings=settings, shape_zyx=shape)
    else:
        init = partial(init_unet, settings=settings, inputs=inputs)
    return flatten_dict(jax.eval_shape(init, jax.random.key(0)), sep="/")


def from_torch(
    state: State, settings: TorchNetSettings, network: str, inputs: int = 1
) -> Params:
    """Turn a state dict of the authors' networks into our parameters.

    Args:
        state: their names (tests/golden/parameters_*.tsv) and arrays in their layout.
        settings: the network that is wanted, with the widths of the state.
        network: how an error calls it ("D").
        inputs: channels of a U-Net's input.

    Raises:
        UserError: names are missing or unknown, or shapes are others; all are listed.
            Or ours has flat levels, for which theirs was not trained.
    """
    if isinstance(settings, UNetSettings) and settings.in_plane_levels:
        raise UserError(
            f"{network} has in_plane_levels {settings.in_plane_levels}, but the "
            "authors' networks halve z at every level; set it to 0."
        )
    expected = _expected_params(settings, inputs)
    names = {path: _torch_name(path, _kind(settings)) for path in expected}
    values = {
        path: _from_torch_layout(np.asarray(state[name]))
        for path, name in names.items()
        if name in state
    }
    faults = {
        "missing": [name for name in names.values() if name not in state],
        "unknown": [name for name in state if name not in set(names.values())],
        "of another shape": [
            f"{names[path]} ({_shape(state[names[path]])})"
            for path, value in values.items()
            if value.shape != expected[path].shape
        ],
    }
    found = [f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names]
    if found:
        raise UserError(
            f"the checkpoint of {network} does not fit a {_kind(settings)} of widths "
            f"{settings.widths} ({'; '.join(found)}); give the file of this network, "
            "or a recipe of such a one."
        )
    return unflatten_dict(
        {path: jnp.asarray(value, jnp.float32) for path, value in values.items()},
        sep="/",
    )


def to_torch(params: Params, settings: TorchNetSettings) -> dict[str, np.ndarray]:
    """Turn our parameters into a state dict of the authors' networks."""
    return {
        _torch_name(path, _kind(settings)): to_torch_layout(np.asarray(value))
        for path, value in flatten_dict(params, sep="/").items()
    }


def torch_widths(state: State, settings: TorchNetSettings) -> tuple[int, ...]:
    """Feature maps of each level in a state dict of theirs; empty: another network."""
    kind = _kind(settings)
    names = (_torch_name(LEVEL_KERNELS[kind].format(level), kind) for level in count())
    return tuple(len(state[name]) for name in takewhile(state.__contains__, names))


def _kind(settings: TorchNetSettings) -> str:
    return getattr(settings, "kind", "alignment_net")


def _shape(value: np.ndarray) -> str:
    return "x".join(map(str, np.shape(value)))
