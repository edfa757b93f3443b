"""Entry point of `python -m adn_jax`."""

from adn_jax.cli.main import main

if __name__ == "__main__":
    main()
