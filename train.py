"""`python train.py ...`: the same as `adn train ...`."""

import sys

from adn_jax.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
