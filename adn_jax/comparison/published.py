"""Published numbers: Table 1 of the paper (Ni et al., MICCAI 2022)."""

from typing import NamedTuple


class Published(NamedTuple):
    """A row of the paper's Table 1: AISD, 345 training and 52 test scans."""

    method: str
    aligned: bool
    dice: float
    hd95_mm: float


TABLE_1 = {
    "deepmedic": Published("DeepMedic", False, 0.4412, 58.20),
    "unet": Published("3D U-Net", False, 0.4281, 42.18),
    "resunet": Published("3D ResUNet", False, 0.4763, 42.55),
    "clerigues": Published("Clèrigues et al.", True, 0.5051, 43.17),
    "sean": Published("SEAN", True, 0.5047, 40.07),
    "resunet_aligned": Published("3D ResUNet, aligned", True, 0.4850, 39.87),
    "adn_no_tissue": Published("ADN without tissue", True, 0.5090, 39.66),
    "adn": Published("ADN", True, 0.5245, 39.18),
}
"""Name of our recipe -> row, in the paper's order."""


def method_name(system: str) -> str:
    """The paper's name of a method; the system's own where the paper has none."""
    return TABLE_1[system].method if system in TABLE_1 else system


def paper_order(system: str) -> int:
    """Place in the paper's table; behind it where the paper has no such method."""
    names = list(TABLE_1)
    return names.index(system) if system in names else len(names)
