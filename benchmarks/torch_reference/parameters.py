"""Our parameters as the state of the reference; the only part that needs jax."""

import jax
import numpy as np
import torch
from torch import Tensor

from adn_jax.models.torch_names import to_torch_layout
from adn_jax.types import Params


def state_of(params: Params) -> dict[str, Tensor]:
    """State dict of the reference's network with our network's parameters."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {
        torch_path(path): torch.from_numpy(
            np.array(to_torch_layout(np.asarray(value)), order="C")
        )
        for path, value in leaves
    }


def torch_path(path: jax.tree_util.KeyPath) -> str:
    """`encoder_0.conv_1.norm.weight` of the path encoder_0/conv_1/norm/scale."""
    *modules, name = (key.key for key in path)
    return ".".join([*modules, "bias" if name == "bias" else "weight"])
