"""What the commands share: Hydra entry point, multirun, the filter of overrides."""
