"""Deterministic simulation of the hub: chance from a seed, time from a fake clock."""
