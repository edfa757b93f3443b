"""Files to start from; a command that runs in this repository's folder finds them."""
