"""Image files in, batches of augmented views out."""
