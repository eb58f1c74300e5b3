"""Loggers that a run writes its numbers and pictures to: TensorBoard, Weights & Biases, MLflow."""
