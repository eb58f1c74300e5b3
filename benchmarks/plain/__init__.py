"""The obvious way to do what gtsa-kit does: yardsticks of the benchmarks."""
