"""The benchmark study: settings of the runs, probes, analysis of the region loss, tables and plots."""
