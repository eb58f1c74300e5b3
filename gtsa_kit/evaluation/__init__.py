"""Evaluations of trained encoders: probes, and the figures and tables of the paper."""
