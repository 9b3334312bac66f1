"""Deterministic simulation of the hub: seeded random numbers and a fake clock."""
