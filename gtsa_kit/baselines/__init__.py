"""What GTSA is compared with, in the same trainer: heads and losses of `lightly`, data and schedule of our own."""
