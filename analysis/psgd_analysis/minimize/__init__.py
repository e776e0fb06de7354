"""PSGD beside other minimisers on the same problem, with every evaluation counted: ``psgd minimize``."""
