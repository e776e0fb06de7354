"""Curvature-informed SGD with Lie-group preconditioners (PSGD, arXiv 2402.04553) on any array library."""

__version__ = "0.1.0.dev0"
