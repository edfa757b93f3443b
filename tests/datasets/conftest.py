from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.aisd.download import FakeHead, pack_download, write_download


@dataclass(frozen=True)
class Download:
    """A fake AISD download, unpacked, and the heads in it; tests leave it as it is."""

    folder: Path
    heads: dict[str, FakeHead]

    def truth(self, name: str, labels=(1, 2, 3, 5)) -> np.ndarray:
        """Infarct or not (x y z), rows upside down as dcm2niix turns them."""
        infarct = np.isin(self.heads[name].label, labels)
        return infarct[:, ::-1].transpose(2, 1, 0)


@pytest.fixture(scope="session")
def download(tmp_path_factory) -> Download:
    folder = tmp_path_factory.mktemp("aisd") / "download"
    return Download(folder, write_download(folder))


@pytest.fixture(scope="session")
def packed(tmp_path_factory, download) -> Path:
    """The same download as it comes, packed."""
    folder = tmp_path_factory.mktemp("packed") / "download"
    pack_download(download.folder, folder)
    return folder
