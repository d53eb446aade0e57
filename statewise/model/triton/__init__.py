"""Triton's kernels for GPUs: the scan, the convolution, the gated norm, and the step of decoding.

Each is held to its definition in torch, gradients too. The package imports triton, which is an
extra (`pip install 'statewise[gpu]'`).
"""

from __future__ import annotations

from statewise.model.triton.conv import conv_silu
from statewise.model.triton.launch import failure, fits, interpreted
from statewise.model.triton.norm import gated_norm
from statewise.model.triton.scan import CHUNK
from statewise.model.triton.scan_backward import ssd
from statewise.model.triton.step import ssd_step

__all__ = ["CHUNK", "conv_silu", "failure", "fits", "gated_norm", "interpreted", "ssd", "ssd_step"]
