"""Kernels for CuPy arrays and PyTorch tensors on CUDA devices, compiled by NVRTC."""
