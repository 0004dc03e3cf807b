"""Supervised benchmarks of the paper: `python -m mtrl_fairgrad.supervised benchmark=digits`."""
