"""Hydra entry point, multirun and filter of overrides, shared by the commands."""
