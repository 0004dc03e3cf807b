"""Evaluation of checkpoints and exported policies: files, videos, goal maps."""
