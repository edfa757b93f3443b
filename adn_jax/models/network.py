"""One interface to every network that can be D, F or the tissue net."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from adn_jax.config import (
    DeepMedicSettings,
    PatchNetSettings,
    Precision,
    Remat,
    SegmentNetSettings,
    SymmetryNetSettings,
    UNetSettings,
)
from adn_jax.models.deepmedic import apply_deepmedic, deepmedic_patch, init_deepmedic
from adn_jax.models.patches import Patch, over_patches
from adn_jax.models.sean import apply_sean, check_slices, init_sean, sean_patch
from adn_jax.models.unets import apply_unet_levels, check_unet_shape, init_unet
from adn_jax.types import Key, Params, Shape

SUREST = 1 - 2**-21
"""The highest probability: interpolation rounds what is closer to 1 up to it."""

Probability = Float32[Array, "*shape"]


@jax.custom_jvp
def probability_of(logits: Float32[Array, "*shape"]) -> Probability:
    """The sigmoid, up to 1 - 2^-21, with the slope p (1 - p) everywhere (ours).

    In float32 a sigmoid is 1 from logits of 17 on. There it has no slope, and the
    cross-entropy of a voxel that is called infarct and is none no value: what a network
    is surest of, and wrongly, would teach it nothing.

    >>> float(jax.grad(lambda z: -jnp.log(1 - probability_of(z)))(jnp.float32(40)))
    0.9999995231628418
    """
    return jnp.minimum(jax.nn.sigmoid(logits), SUREST)


@probability_of.defjvp
def _slope(
    primals: tuple[Probability], tangents: tuple[Probability]
) -> tuple[Probability, Probability]:
    probability = probability_of(*primals)
    return probability, probability * (1 - probability) * tangents[0]


class PatchForm(NamedTuple):
    """How a network that sees patches of a volume learns and covers it."""

    settings: PatchNetSettings
    apply: Callable[..., tuple[Float32[Array, "n z2 y2 x2 1"], Params]]
    """(params, patches, settings, key=, precision=) -> logits of the patches' inner
    voxels, and the next running statistics. A key switches to training: dropout, and
    the statistics of these patches."""
    training: Patch
    """What it learns from at once."""
    inference: Patch
    """What covers a volume side by side."""


@dataclass(frozen=True)
class Network:
    """A network as pure functions of its parameters; `network` makes it of settings."""

    settings: SegmentNetSettings
    init_params: Callable[..., Params]
    """(key, settings, inputs) -> parameters."""
    check: Callable[[Shape, Any], None]
    whole: Callable[..., tuple[Float32[Array, "b _z _y _x outputs"], ...]] | None = None
    """(params, volume, settings, key=, precision=, remat=) -> what `apply` gives; None
    for a network that sees patches."""
    patch_form: Callable[[Any, Shape], PatchForm] | None = None
    """Of the settings and a volume's shape; None if volumes are seen whole."""
    halvings: int = 0
    """How often maps of a volume that is seen whole are halved along y."""
    has_dropout: bool = False
    """Whether a key changes what `apply` gives."""

    @property
    def sees_patches(self) -> bool:
        """Whether it sees patches of a volume; then it has running statistics."""
        return self.patch_form is not None

    def init(self, key: Key, inputs: int = 1) -> Params:
        """Draw the parameters for `inputs` channels."""
        return self.init_params(key, self.settings, inputs)

    def check_shape(self, shape_zyx: Shape) -> None:
        """Refuse a volume whose sizes do not fit, and name sizes that do.

        Raises:
            UserError: the sizes do not fit.
        """
        self.check(shape_zyx, self.settings)

    def deepest_rows(self, shape_zyx: Shape) -> int:
        """Rows (y) of the smallest maps of a volume that is seen whole."""
        return shape_zyx[1] // 2**self.halvings

    def patches(self, shape_zyx: Shape) -> PatchForm:
        """The patches of volumes of a shape, of a network that sees patches."""
        if self.patch_form is None:
            raise TypeError(f"a {self.settings.kind} sees volumes as a whole")
        return self.patch_form(self.settings, shape_zyx)

    def apply(
        self,
        params: Params,
        volume: Float[Array, "b z y x c"],
        *,
        key: Key | None = None,
        precision: Precision = "float32",
        remat: Remat = "nothing",
    ) -> tuple[Float32[Array, "b _z _y _x outputs"], ...]:
        """Compute the logits of each voxel, then those of lower levels that have any.

        Lower levels are those of deep supervision, each of its own size, the finest
        first. A key switches dropout on; a network that sees patches goes over the
        volume patch by patch, without dropout.
        """
        if self.whole is not None:
            return self.whole(
                params,
                volume,
                self.settings,
                key=key,
                precision=precision,
                remat=remat,
            )
        _, z, y, x, _ = volume.shape
        form = self.patches((z, y, x))

        def logits(
            patches: Float[Array, "n z y x c"],
        ) -> Float32[Array, "n z2 y2 x2 1"]:
            return form.apply(params, patches, self.settings, precision=precision)[0]

        return (over_patches(logits, volume, form.inference),)


def network(settings: SegmentNetSettings) -> Network:
    """The network of some settings."""
    match settings:
        case UNetSettings():
            return Network(
                settings,
                init_unet,
                check_unet_shape,
                whole=apply_unet_levels,
                halvings=len(settings.widths) - 1,
                has_dropout=settings.dropout > 0,
            )
        case DeepMedicSettings():
            form = _deepmedic_form
            return Network(settings, init_deepmedic, lambda *_: None, patch_form=form)
        case SymmetryNetSettings():
            return Network(settings, init_sean, check_slices, patch_form=_sean_form)


def _deepmedic_form(settings: DeepMedicSettings, shape_zyx: Shape) -> PatchForm:
    """In inference, along an axis that one tile covers, it is no longer than needed."""
    z, y, x = (min(settings.tile, size // 2 * 2 + 1) for size in shape_zyx)
    return PatchForm(
        settings,
        apply_deepmedic,
        training=deepmedic_patch(settings, settings.side),
        inference=deepmedic_patch(settings, (z, y, x)),
    )


def _sean_form(settings: SymmetryNetSettings, shape_zyx: Shape) -> PatchForm:
    patch = sean_patch(settings, shape_zyx)
    return PatchForm(settings, apply_sean, training=patch, inference=patch)
