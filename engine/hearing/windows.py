"""Windows of sound that overlap, without a copy."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", bound=np.generic)


def windows(values: NDArray[Value], length: int, step: int = 1) -> NDArray[Value]:
    """[N, ...] -> [1 + (N - length) // step, ..., length], where `values` is contiguous.

    None where `values` is shorter than one. They share its memory: read them, do not write.
    """
    # Not by `numpy.lib.stride_tricks`: it describes the array by a dictionary, whose keys the
    # interpreter interns anew each time, so that its table of such names fills and doubles.
    count = max(0, 1 + (len(values) - length) // step)
    shape = (count, *values.shape[1:], length)
    first, *others = values.strides
    strides = (first * step, *others, first)
    return np.ndarray(shape, values.dtype, buffer=values, strides=strides)
