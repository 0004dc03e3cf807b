"""Hydra configuration groups; a package so that a wheel can carry them."""
