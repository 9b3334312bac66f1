"""Explains whether a user received a publication; see docs/explain.md."""
