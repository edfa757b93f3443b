"""Networks T, D, F in PyTorch; their attributes are named as our parameters are."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from adn_jax.config import AlignmentNetSettings, UNetSettings

Volume = Float[Tensor, "b c z y x"]

Features = Float[Tensor, "b o z y x"]

Skip = Float[Tensor, "b k z2 y2 x2"]

Joined = Float[Tensor, "b o z2 y2 x2"]

IDENTITY_START = 0.01
"""Share of the last layer's usual weights that T keeps to start at the identity."""


class GroupNorm(nn.GroupNorm):
    """Group normalisation whose result has the type of its input.

    Autocast would return float32, twice the memory; the kernel's sums are float32
    either way.
    """

    def forward(self, volume: Volume) -> Volume:
        """Normalise."""
        weight, bias = self.weight.to(volume.dtype), self.bias.to(volume.dtype)
        with torch.autocast(volume.device.type, enabled=False):
            return F.group_norm(volume, self.num_groups, weight, bias, self.eps)


class NormConvolution(nn.Module):
    """Group normalisation, then a 3 x 3 x 3 convolution without bias."""

    def __init__(self, inputs: int, features: int, groups: int):
        """Make the layers."""
        super().__init__()
        self.norm = GroupNorm(1 if inputs < groups else groups, inputs)
        self.convolution = nn.Conv3d(inputs, features, 3, padding=1, bias=False)

    def forward(self, volume: Volume) -> Features:
        """Normalise and convolve; sizes stay."""
        return self.convolution(self.norm(volume))


class ResidualBlock(nn.Module):
    """r = ReLU(conv(x)); output ReLU(conv(ReLU(conv(r))) + r)."""

    def __init__(self, inputs: int, features: int, groups: int):
        """Make the layers."""
        super().__init__()
        self.conv_1 = NormConvolution(inputs, features, groups)
        self.conv_2 = NormConvolution(features, features, groups)
        self.conv_3 = NormConvolution(features, features, groups)

    def forward(self, volume: Volume) -> Features:
        """Apply the three convolutions; sizes stay."""
        first = F.relu(self.conv_1(volume), inplace=True)
        second = F.relu(self.conv_2(first), inplace=True)
        return F.relu(self.conv_3(second).add_(first), inplace=True)


class DoubleConvolution(nn.Module):
    """Two normalised convolutions with ReLU."""

    def __init__(self, inputs: int, middle: int, features: int, groups: int):
        """Make the layers."""
        super().__init__()
        self.conv_1 = NormConvolution(inputs, middle, groups)
        self.conv_2 = NormConvolution(middle, features, groups)

    def forward(self, volume: Volume) -> Features:
        """Apply the two convolutions; sizes stay."""
        first = F.relu(self.conv_1(volume), inplace=True)
        return F.relu(self.conv_2(first), inplace=True)


class EncoderDecoder(nn.Module):
    """What the two U-Nets share: levels, pooling, dropout, and float32 logits."""

    def __init__(self, settings: UNetSettings):
        """Make the layers."""
        super().__init__()
        self.levels = len(settings.widths)
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Conv3d(settings.widths[0], settings.outputs, 1)

    def forward(self, volume: Volume) -> Features:
        """Compute the logits of each voxel."""
        skips = []
        for level in range(self.levels):
            volume = F.max_pool3d(volume, 2) if level else volume
            volume = self.dropout(getattr(self, f"encoder_{level}")(volume))
            skips.append(volume)
        skips.pop()
        for level in range(self.levels - 1):
            volume = self.join(level, volume, skips.pop())
            volume = self.dropout(getattr(self, f"decoder_{level}")(volume))
        return self.head(volume).float()

    def join(self, level: int, volume: Volume, skip: Skip) -> Joined:
        """Bring a decoder's map to the size of the encoder's and put them together."""
        raise NotImplementedError


class ResidualUNet(EncoderDecoder):
    """Residual blocks; the encoder's maps are added."""

    def __init__(self, settings: UNetSettings, inputs: int = 1):
        """Make the layers."""
        super().__init__(settings)
        for level, features in enumerate(settings.widths):
            block = ResidualBlock(inputs, features, settings.groups)
            self.add_module(f"encoder_{level}", block)
            inputs = features
        for level, features in enumerate(settings.widths[-2::-1]):
            up = nn.Conv3d(inputs, features, 3, padding=1)
            self.add_module(f"up_{level}", up)
            block = ResidualBlock(features, features, settings.groups)
            self.add_module(f"decoder_{level}", block)
            inputs = features

    def join(self, level: int, volume: Volume, skip: Skip) -> Joined:
        """Upsample, convolve and add."""
        volume = F.interpolate(volume, scale_factor=2, mode="nearest")
        return getattr(self, f"up_{level}")(volume).add_(skip)


class UNet(EncoderDecoder):
    """Double convolutions; the encoder's maps are joined as channels."""

    def __init__(self, settings: UNetSettings, inputs: int = 1):
        """Make the layers."""
        super().__init__(settings)
        widths, groups = settings.widths, settings.groups
        for level, features in enumerate(widths):
            middle = max(inputs, features // 2)
            block = DoubleConvolution(inputs, middle, features, groups)
            self.add_module(f"encoder_{level}", block)
            inputs = features
        for level, features in enumerate(widths[-2::-1]):
            block = DoubleConvolution(inputs + features, features, features, groups)
            self.add_module(f"decoder_{level}", block)
            inputs = features

    def join(self, level: int, volume: Volume, skip: Skip) -> Joined:  # noqa: ARG002
        """Upsample and concatenate."""
        upsampled = F.interpolate(volume, scale_factor=2, mode="nearest")
        return torch.cat([skip, upsampled], dim=1)


class Stage(nn.Module):
    """Strided convolution, then a residual block with normalisation in front."""

    def __init__(self, inputs: int, features: int):
        """Make the layers."""
        super().__init__()
        groups = AlignmentNetSettings.groups(features)
        self.down = nn.Conv3d(inputs, features, 4, stride=2, padding=1, bias=False)
        self.norm_1 = GroupNorm(groups, features)
        self.conv_1 = nn.Conv3d(features, features, 3, padding=1)
        self.norm_2 = GroupNorm(groups, features)
        self.conv_2 = nn.Conv3d(features, features, 3, padding=1)

    def forward(self, volume: Volume) -> Float[Tensor, "b o z2 y2 x2"]:
        """Apply the stage; every axis is halved."""
        volume = self.down(volume)
        branch = self.conv_1(F.relu(self.norm_1(volume), inplace=True))
        branch = self.conv_2(F.relu(self.norm_2(branch), inplace=True))
        return branch.add_(volume)


class AlignmentNet(nn.Module):
    """Strided stages, global average, linear layer, tanh, limits."""

    def __init__(self, settings: AlignmentNetSettings):
        """Make the layers."""
        super().__init__()
        inputs = 1
        for level, features in enumerate(settings.widths):
            self.add_module(f"stage_{level}", Stage(inputs, features))
            inputs = features
        self.levels = len(settings.widths)
        self.head = nn.Linear(inputs, 6)
        rotation = map(math.radians, settings.rotation_limit_deg)
        limits = torch.tensor([*rotation, *settings.translation_limit])
        self.register_buffer("limits", limits, persistent=False)

    def forward(self, volume: Float[Tensor, "b 1 z y x"]) -> Float[Tensor, "b 6"]:
        """Estimate the pose in radians and half-extents."""
        for level in range(self.levels):
            volume = getattr(self, f"stage_{level}")(volume)
        maps = volume.float().mean((2, 3, 4))
        with torch.autocast(maps.device.type, enabled=False):
            return torch.tanh(self.head(maps)) * self.limits


def make_unet(settings: UNetSettings, inputs: int = 1) -> EncoderDecoder:
    """A U-Net with fresh parameters."""
    kinds = {"residual_unet": ResidualUNet, "unet": UNet}
    network = kinds[settings.kind](settings, inputs)
    draw_weights(network)
    if settings.prior is not None:
        nn.init.constant_(
            network.head.bias, math.log(settings.prior / (1 - settings.prior))
        )
    return network


def make_alignment_net(settings: AlignmentNetSettings) -> AlignmentNet:
    """T with fresh parameters."""
    network = AlignmentNet(settings)
    draw_weights(network)
    if settings.identity_start:
        with torch.no_grad():
            network.head.weight.mul_(IDENTITY_START)
    return network


def draw_weights(network: nn.Module) -> None:
    """Draw weights of variance 1 / fan-in, biases 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
