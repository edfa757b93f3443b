"""`train.py` that notes its memory after each update of D and F.

    python -m tests.training.weighed FILE ...

FILE gets a line for each: the step, and the bytes that belong to the process alone, not
to files that it reads.
"""

import sys
from pathlib import Path

from adn_jax.cli.main import main
from adn_jax.training.metric_log import Logbook

FILE, *ARGUMENTS = sys.argv[1:]

write = Logbook.write


def write_and_weigh(log, step, split, values):
    """Write a line of the logs, and one of the memory."""
    write(log, step, split, values)
    if (log.stage, split) == ("joint", "train"):
        with Path(FILE).open("a") as file:
            print(step, own_memory(), file=file)


def own_memory():
    """Bytes of this process that are not those of a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = [line for line in lines if line.startswith("RssAnon")]
    return int(found.split()[1]) * 1024


Logbook.write = write_and_weigh

if __name__ == "__main__":
    main(["train", *ARGUMENTS])
