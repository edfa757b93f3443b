"""T, the asymmetry maps, and the whole chain as pure functions."""
