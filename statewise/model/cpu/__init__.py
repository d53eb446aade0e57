"""The CPU's own kernels, compiled on the user's machine by Numba; no compiler is needed."""

from statewise.model.cpu.linear import linear
from statewise.model.cpu.mixer import mix
from statewise.model.cpu.norm import norm_residual

__all__ = ["linear", "mix", "norm_residual"]
