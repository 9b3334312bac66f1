"""Applications that the benchmarks serve."""
