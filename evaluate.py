"""`python evaluate.py ...`: the same as `adn evaluate ...`."""

import sys

from adn_jax.cli.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
