"""Parts of benchmarks/peers.py: environments, measured commands, rounds, and the four jobs."""
