"""What keeps P on its scale: the default damping, and when a jump of H sets the scale anew.

In one place for the plain code and the kernels.
"""

DAMPING = {"float32": 1e-9, "float64": 1e-16}
"""By dtype, relative to the scale that the first pair sets: P tends to at most 1e9, 1e16 times that."""

FAR = 10.0
"""``|a| / |b|`` beyond which a pair says that Q is off its scale: mean squares are equal at the minimiser."""

SHRINK, GROW = 8, 64
"""Such pairs in a row, with Q too large and too small, after which the scale is set anew."""
