"""Hydra's configuration groups; a package, so that the wheel contains them."""
