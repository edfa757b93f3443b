"""Heads drawn on the device: an endless stream with known truth."""
