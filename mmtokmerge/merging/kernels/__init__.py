"""GPU kernels in Triton; nothing here is imported before a kernel runs."""
