"""Speed comparison of artifacts, and the choice of the fastest format on this machine."""
