"""TensorRT engines: building, checking without a GPU, and dry runs."""
