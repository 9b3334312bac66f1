"""Explains what became of a publication for one user; see docs/explain.md."""
