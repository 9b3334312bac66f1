"""Benchmarks: one script per question; all servers are measured in the same run."""
