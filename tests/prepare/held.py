"""`adn` for which one case waits until the test lets it go on.

    python -m tests.prepare.held FOLDER CASE VERB ...

The processes that prepare import this module as well, so it waits in any of them.
"""

import sys
from pathlib import Path

from adn_jax.cli.main import main
from adn_jax.prepare import dataset
from tests.hold import Hold

FOLDER, CASE, *VERB = sys.argv[1:]

prepare_and_write = dataset.prepare_and_write


def wait_and_prepare(raw, *arguments):
    """Prepare a case; the held one as soon as it may go on."""
    if raw.name == CASE:
        Hold(Path(FOLDER)).wait()
    prepare_and_write(raw, *arguments)


dataset.prepare_and_write = wait_and_prepare

if __name__ == "__main__":
    main(VERB)
