"""Run folders: configuration, manifest, logs, evaluations and checkpoints on disk."""
