"""Several systems trained, scored and compared on the same data."""
