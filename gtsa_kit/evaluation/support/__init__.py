"""Reports, plots and statistics that the evaluations share."""
