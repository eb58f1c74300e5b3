"""Parts of the benchmark study: settings of the runs, probes, analysis of the region loss, and output."""
