"""The sections of `scripts/benchmark.py`, one module each: a function that yields rows, given the
`Settings`.
"""
