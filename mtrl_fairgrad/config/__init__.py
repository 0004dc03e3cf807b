"""The typed configuration: one dataclass per Hydra group, and its validation."""
