"""Kernels for NumPy arrays and PyTorch tensors on the host, compiled by numba."""
