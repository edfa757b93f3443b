"""Peers that `adn benchmark --peer` measures; not part of the installed package."""
