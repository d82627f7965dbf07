"""Data sets: where samples come from, and their exact reduction to the span of the samples."""
