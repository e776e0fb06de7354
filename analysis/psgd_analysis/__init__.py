"""Studies with psgd_core: problems, convergence checks, spectra, statistics, figures, the `psgd` command.

Subpackages are imported where they are needed; importing this one costs nothing.
"""
