"""Helpers without knowledge of learning: atomic files, safe loading, validation."""
