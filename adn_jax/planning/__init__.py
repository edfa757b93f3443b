"""Train steps compiled ahead of time for accelerators that are not there."""
