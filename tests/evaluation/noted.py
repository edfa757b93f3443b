"""What a run knows of its training, changed."""

import json
from pathlib import Path
from typing import Any


def note(run: Path, **more: Any) -> None:
    """Add to a run's `config.json`."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, **more}))
