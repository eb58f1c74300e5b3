"""TensorRT in its two variants: engines that build without a GPU, are checked without one, and run where one is."""
