"""CUDA kernels from the `.cu` files of this folder, compiled by NVRTC, which comes with torch.

A kernel is compiled once for each GPU, when it is first asked for. Where this torch or GPU cannot
have it, its caller computes the same by torch operations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
LEAST_CAPABILITY = (8, 0)

Size = tuple[int, int, int]
Argument = Tensor | int | float
Launch = Callable[[Size, Size, Sequence[Argument]], None]
"""Grid, block, arguments: ints are passed as 32 bits, floats as double."""

_INCLUDE = re.compile(r'^#include "(.+)"\n', re.MULTILINE)


class Kernel:
    """One kernel: the function `name` in `name.cu`."""

    all: ClassVar[list[Kernel]] = []
    """Every kernel there is."""
    are_on: ClassVar[bool] = True
    """False: torch operations instead of all of them, to compare the two."""

    def __init__(self, name: str, dtype: torch.dtype, **defines: int | str) -> None:
        """`dtype`: of the tensor that decides; `defines`: macros of the source."""
        self.name = name
        self.dtype = dtype
        self.defines = defines
        self._launches: dict[int, Launch | None] = {}
        self._fault = ""
        Kernel.all.append(self)

    @property
    def source(self) -> str:
        """The whole text, with its macros and headers in front."""
        macros = "".join(f"#define {name} {value}\n" for name, value in self.defines.items())
        return macros + _read(f"{self.name}.cu")

    def on(self, x: Tensor, fits: bool = True) -> Launch | None:
        """What runs it on tensors like `x`; None where torch operations have to do instead.

        `fits`: whether the kernel takes tensors of these sizes and strides.
        """
        if x.device.type != "cuda" or x.dtype != self.dtype or not fits or not Kernel.are_on:
            return None
        return self.compiled(x.device.index or 0)

    def compiled(self, device: int) -> Launch | None:
        """For a GPU, or None if it cannot be had there; `report` says why."""
        if device not in self._launches:
            self._launches[device] = self._compile(device)
        return self._launches[device]

    def _compile(self, device: int) -> Launch | None:
        # Private in torch 2.8 to 2.13: the reason for torch's upper bound in pyproject.toml.
        compile_kernel = getattr(torch.cuda, "_compile_kernel", None)
        if compile_kernel is None:
            self._fault = "this torch cannot compile kernels"
        elif torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
            self._fault = "the GPU is older than compute capability 8.0"
        else:
            try:
                with torch.cuda.device(device):
                    return _checked(self.name, compile_kernel(self.source, self.name))
            except (RuntimeError, OSError) as error:
                self._fault = str(error)
        return None

    @classmethod
    def report(cls) -> str:
        """One line: which of those that were asked for are on, and why others are not."""
        asked = [kernel for kernel in cls.all if kernel._launches]
        on = sorted({kernel.name for kernel in asked if not kernel._fault})
        if not asked:
            return "CUDA kernels of our own: none was asked for"
        told = f"CUDA kernels of our own: {', '.join(on) or 'none'}"
        off = cls._faults()
        return f"{told}; slower operations instead of {', '.join(off)}" if off else told

    @classmethod
    def are_missing(cls) -> bool:
        """Return whether one that was asked for cannot be had."""
        return bool(cls._faults())

    @classmethod
    def _faults(cls) -> list[str]:
        faulty = [kernel for kernel in cls.all if kernel._fault]
        return sorted({f"{kernel.name} ({kernel._fault.splitlines()[0]})" for kernel in faulty})


@cache
def _read(name: str) -> str:
    """A file of this folder with its headers in their places, each once."""
    seen: set[str] = set()

    def put(found: re.Match[str]) -> str:
        header = found.group(1)
        if header in seen:
            return ""
        seen.add(header)
        return _INCLUDE.sub(put, (FOLDER / header).read_text())

    return _INCLUDE.sub(put, (FOLDER / name).read_text())


def _checked(name: str, launch: Launch) -> Launch:
    """Refuse arguments that the kernel would misread: it is given bare addresses and numbers."""

    def run(grid: Size, block: Size, arguments: Sequence[Argument]) -> None:
        devices = {x.device for x in arguments if isinstance(x, Tensor)}
        if len(devices) != 1:
            raise ValueError(f"kernel {name}: tensors on {sorted(map(str, devices))}")
        launch(grid, block, arguments)

    return run


@cache
def null(device: torch.device) -> Tensor:
    """A tensor without memory: its pointer is null."""
    return torch.empty(0, device=device)
