"""Tasks: fine-tuning of a head, or of the whole model, on labeled images; scores and predictions of task models."""
