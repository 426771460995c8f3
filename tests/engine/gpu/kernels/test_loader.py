"""Kernels are files: each is used, compiles for every kind of GPU, and tells when it cannot."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import pkgutil
from functools import cache
from pathlib import Path

import pytest
import torch

from engine.gpu import kernels
from engine.gpu.kernels.loader import FOLDER, Kernel

for module in pkgutil.iter_modules(kernels.__path__):
    importlib.import_module(f"{kernels.__name__}.{module.name}")

OLDEST, NEWEST = 80, 120
"""Of those that are served, from the A100 to the 5090."""


def labels() -> list[str]:
    named = ("DIM", "LIFT", "TILES", "EIGHTS")
    return ["-".join([k.name, *(str(k.defines.get(n, "")) for n in named)]) for k in Kernel.all]


@cache
def nvrtc() -> ctypes.CDLL | None:
    """NVIDIA's compiler library, if its wheel is installed; it needs no GPU."""
    if importlib.util.find_spec("nvidia") is None:
        return None
    spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    if spec is None or spec.submodule_search_locations is None:
        return None
    found = sorted(Path(spec.submodule_search_locations[0], "lib").glob("libnvrtc.so.*"))
    return ctypes.CDLL(str(found[0])) if found else None


def compile_for(library: ctypes.CDLL, source: str, architecture: int) -> str:
    """The compiler's log; empty if it has nothing to say."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture=compute_{architecture}".encode())
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    failed = library.nvrtcCompileProgram(program, 1, options)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return f"failed: {log.value.decode()}" if failed else log.value.decode()


def test_every_source_file_is_some_kernels_and_every_header_is_read() -> None:
    assert {path.stem for path in FOLDER.glob("*.cu")} == {kernel.name for kernel in Kernel.all}
    text = "".join(path.read_text() for path in FOLDER.glob("*.cu*"))
    assert [path.name for path in FOLDER.glob("*.cuh") if f'"{path.name}"' not in text] == []


@pytest.mark.parametrize("kernel", Kernel.all, ids=labels())
def test_sources_are_whole_and_the_same_for_all_gpus(kernel: Kernel) -> None:
    assert "#include" not in kernel.source and "__CUDA_ARCH" not in kernel.source
    assert kernel.source.count(f" {kernel.name}(") + kernel.source.count(f"\n{kernel.name}(") == 1


@pytest.mark.skipif(nvrtc() is None, reason="needs the wheel nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("kernel", Kernel.all, ids=labels())
def test_every_kernel_compiles_for_the_oldest_gpu(kernel: Kernel) -> None:
    """And so for all: no source asks which one it is compiled for."""
    library = nvrtc()
    assert library is not None
    assert compile_for(library, kernel.source, OLDEST) == ""


@pytest.mark.skipif(nvrtc() is None, reason="needs the wheel nvidia-cuda-nvrtc-cu12")
def test_the_compiler_knows_the_newest_gpu() -> None:
    library = nvrtc()
    assert library is not None
    assert compile_for(library, Kernel.all[0].source, NEWEST) == ""


@pytest.mark.skipif(nvrtc() is None, reason="needs the wheel nvidia-cuda-nvrtc-cu12")
def test_a_broken_source_does_not_pass_for_a_good_one() -> None:
    library = nvrtc()
    assert library is not None
    assert compile_for(library, 'extern "C" __global__ void f() { nonsense(); }', 80)


def test_on_other_devices_and_types_there_is_no_kernel() -> None:
    kernel = Kernel.all[0]
    assert kernel.on(torch.zeros(8, dtype=kernel.dtype)) is None


def test_a_torch_without_the_private_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fast path would be off, and nobody would know why it is slow."""
    monkeypatch.setattr(Kernel, "all", [])
    assert "none was asked for" in Kernel.report()
    monkeypatch.delattr(torch.cuda, "_compile_kernel", raising=False)
    kernel = Kernel("silu_mul", torch.bfloat16)
    assert kernel.compiled(0) is None
    assert Kernel.report().endswith("silu_mul (this torch cannot compile kernels)")


def test_a_source_that_does_not_compile_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse(source: str, name: str) -> None:
        calls.append(name)
        raise RuntimeError("Kernel compilation failed:\nmany lines")

    monkeypatch.setattr(Kernel, "all", [])
    monkeypatch.setattr(torch.cuda, "_compile_kernel", refuse, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.device("cpu"))
    kernel = Kernel("silu_mul", torch.bfloat16)
    assert kernel.compiled(0) is None and kernel.compiled(0) is None and calls == ["silu_mul"]
    assert "silu_mul (Kernel compilation failed:)" in Kernel.report()
