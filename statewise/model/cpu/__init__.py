"""The CPU's own kernels, compiled on the user's machine by Numba; no compiler is needed."""
