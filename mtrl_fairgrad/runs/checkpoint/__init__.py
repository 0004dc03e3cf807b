"""Checkpoints: atomic, checksummed, with an incremental replay buffer."""
