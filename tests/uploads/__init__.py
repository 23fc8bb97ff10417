"""Measures uploads: `python -m tests.uploads`."""
