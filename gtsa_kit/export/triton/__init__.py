"""Model repositories of NVIDIA Triton."""
