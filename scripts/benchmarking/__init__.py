"""Sections of `scripts/benchmark.py`, one module each, with a function from `Settings` to rows."""
