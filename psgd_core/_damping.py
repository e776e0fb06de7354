"""The default absolute damping, in one place for the plain code and the kernels."""

DAMPING = {"float32": 1e-9, "float64": 1e-16}
"""By dtype: P stays below 1e9 in float32, below 1e16 in float64."""
