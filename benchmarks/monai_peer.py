"""MONAI's SegResNet on an exported data set: a peer of another make, for our tables.

    adn export PREPARED nnUNet_raw --grid prepared
    pip install torch monai
    OMP_NUM_THREADS=1 python benchmarks/monai_peer.py nnUNet_raw/Dataset501_ADN OUT
    adn evaluate --predictions OUT --data PREPARED

Transforms, network, loss and inference are MONAI's; the data, the number of updates and
of cases in each are ours. The weights with the best mean Dice on the validation cases
are kept, as in a run. Nothing here imports adn_jax or jax.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data import CacheDataset, DataLoader, decollate_batch
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import SegResNet
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SaveImage,
    ScaleIntensityRanged,
)
from monai.utils import set_determinism

WINDOW_HU = (0.0, 80.0)

LEARNING_RATE = 2e-3
"""That of our recipes at demo size, with AdamW and a cosine down to 0: MONAI's own for
SegResNet take 1e-4 to 2e-4, for a hundred times as many updates and more."""

TURN_RAD = 0.17


@dataclass(frozen=True)
class Split:
    """Paths of image and label of the cases of each part."""

    train: list[dict[str, str]]
    validation: list[dict[str, str]]
    test: list[dict[str, str]]

    @classmethod
    def of(cls, dataset: Path) -> "Split":
        """The parts of a data set in nnU-Net's raw layout, fold 0."""
        fold = json.loads((dataset / "splits_final.json").read_text())[0]
        tests = sorted((dataset / "imagesTs").glob("*_0000.nii.gz"))

        def paths(part: str, names: Sequence[str]) -> list[dict[str, str]]:
            return [
                {
                    "image": str(dataset / f"images{part}" / f"{name}_0000.nii.gz"),
                    "label": str(dataset / f"labels{part}" / f"{name}.nii.gz"),
                }
                for name in names
            ]

        names = [path.name.removesuffix("_0000.nii.gz") for path in tests]
        return cls(
            paths("Tr", fold["train"]), paths("Tr", fold["val"]), paths("Ts", names)
        )


def read_transforms(keys: Sequence[str]) -> list:
    """Read a scan in HU, and its label if asked for."""
    return [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        ScaleIntensityRanged("image", *WINDOW_HU, 0.0, 1.0, clip=True),
    ]


def train_transforms() -> Compose:
    """Reading, and changes of place and brightness at random."""
    keys = ("image", "label")
    return Compose(
        [
            *read_transforms(keys),
            RandFlipd(keys, prob=0.5, spatial_axis=0),
            RandAffined(
                keys,
                prob=0.8,
                rotate_range=(0.0, 0.0, TURN_RAD),
                scale_range=(0.1, 0.1, 0.0),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
            RandShiftIntensityd("image", offsets=0.05, prob=0.5),
            RandGaussianNoised("image", prob=0.3, std=0.01),
        ]
    )


def endless(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    """Batches, epoch after epoch."""
    while True:
        yield from loader


def make_network(filters: int) -> SegResNet:
    """SegResNet with its default blocks: four levels, twice the maps at each."""
    return SegResNet(
        spatial_dims=3, in_channels=1, out_channels=1, init_filters=filters
    )


@torch.no_grad()
def validate(network: SegResNet, loader: DataLoader) -> float:
    """Mean Dice over the cases that have an infarct."""
    network.eval()
    dice = DiceMetric()
    for batch in loader:
        dice(network(batch["image"]).sigmoid() >= 0.5, batch["label"])
    network.train()
    return float(dice.aggregate())


def train(
    split: Split, filters: int, updates: int, batch: int, every: int
) -> SegResNet:
    """The network after so many updates, with the best weights on validation."""
    cases = CacheDataset(split.train, train_transforms(), progress=False)
    known = CacheDataset(
        split.validation, Compose(read_transforms(("image", "label"))), progress=False
    )
    batches = endless(DataLoader(cases, batch_size=batch, shuffle=True, drop_last=True))
    network = make_network(filters)
    optimizer = torch.optim.AdamW(
        network.parameters(), LEARNING_RATE, weight_decay=1e-5
    )
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    loss = DiceCELoss(sigmoid=True)
    best, weights = -1.0, network.state_dict()
    for update, cases_of_update in zip(range(1, updates + 1), batches, strict=False):
        optimizer.zero_grad()
        value = loss(network(cases_of_update["image"]), cases_of_update["label"])
        value.backward()
        optimizer.step()
        rates.step()
        if update % every == 0 or update == updates:
            dice = validate(network, DataLoader(known, batch_size=1))
            print(
                f"update {update}: loss {value.item():.3f}, validation Dice {dice:.3f}"
            )
            if dice > best:
                best = dice
                weights = {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(weights)
    return network


@torch.no_grad()
def predict(network: SegResNet, split: Split, out: Path) -> None:
    """Write the probability of every held-out case as `<case>.nii.gz`."""
    network.eval()
    cases = CacheDataset(
        split.test, Compose(read_transforms(("image",))), progress=False
    )
    save = SaveImage(
        out, output_postfix="", separate_folder=False, print_log=False, resample=False
    )
    for one in DataLoader(cases, batch_size=1):
        for probability in decollate_batch(network(one["image"]).sigmoid()):
            save(probability)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and predict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path, help="folder in nnU-Net's raw layout")
    parser.add_argument("out", type=Path, help="folder for the predictions")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--validate-every", type=int, default=75)
    parser.add_argument(
        "--filters", type=int, default=8, help="maps of the first level"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    set_determinism(given.seed)
    split = Split.of(given.dataset)
    network = train(
        split, given.filters, given.updates, given.batch, given.validate_every
    )
    count = sum(one.numel() for one in network.parameters())
    predict(network, split, given.out)
    print(f"{count} parameters; {len(split.test)} predictions in {given.out}")


if __name__ == "__main__":
    main()
