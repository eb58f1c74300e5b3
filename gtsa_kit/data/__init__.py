"""Image sources, decoding, augmentation and batches for pretraining; labeled datasets for evaluation."""
