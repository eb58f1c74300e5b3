"""Parts of the GPU checks: each module has `NEEDS`, the modules that it cannot do without, and `run`."""
