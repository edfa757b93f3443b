"""How fast the system is, and beside what."""
