"""TensorRT in its two flavours: engines that build without a GPU, are checked without one, and run where one is."""
