"""Weights from safetensors files into modules, one tensor at a time, each checked by name.

A module is built without memory (`empty(lambda: Module(...))`), then filled: every tensor goes from
the mapped file straight to its place on the device. What a module derives from its configuration
(tables, folded weights) it makes in a method `finish_loading(self) -> None`, called after its
tensors are in place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""Formats of stored weights."""

Progress = Callable[[str, int], None]
"""Called with each tensor's name and its bytes in the file after it is in place."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class CheckpointError(RuntimeError):
    """Files or tensors are missing, unexpected or of another shape; the message names them."""


class _DrawsNothing(TorchFunctionMode):
    """Leaves out the normal numbers that parameters begin with.

    For tensors without memory torch would import its compiler and sympy: 1.6 s of CPU time.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.init.normal_:
            return kwargs["tensor"]
        return args[0] if func is Tensor.normal_ else func(*args, **kwargs)


def empty(factory: Callable[[], ModuleT]) -> ModuleT:
    """Build a module whose tensors have shapes but no memory yet."""
    with torch.device("meta"), _DrawsNothing():
        return factory()


class Checkpoint:
    """One folder with `model.safetensors` or its shards; leaving the context closes the files."""

    def __init__(self, path: str | Path, *, progress: Progress | None = None) -> None:
        self.path = Path(path)
        self._progress = progress
        self._files = ExitStack()
        self._open: dict[str, Any] = {}
        self._file_of = self._read_index()
        self._used: set[str] = set()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.clear()
        self._files.close()

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of all stored tensors that begin with `prefix`, sorted."""
        return sorted(name for name in self._file_of if name.startswith(prefix))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._handle(name).get_slice(name).get_shape())

    def kind(self, name: str) -> str:
        """The type as the file spells it: BF16, F32, I8 ..."""
        kind: str = self._handle(name).get_slice(name).get_dtype()
        return kind

    def tensor(self, name: str) -> Tensor:
        """Return one tensor as stored, backed by the file's pages where the platform allows."""
        if name not in self._file_of:
            raise CheckpointError(f"{self.path}: no tensor {name}")
        tensor: Tensor = self._handle(name).get_tensor(name)
        return tensor

    def unused(self, ignore: Iterable[str] = ()) -> list[str]:
        """Return stored tensors that no `load` has claimed or ignored and no pattern matches."""
        patterns = tuple(ignore)
        return [
            name for name in self.names() if name not in self._used and not _matches(name, patterns)
        ]

    def load(
        self,
        module: nn.Module,
        prefix: str,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        optional: Sequence[str] = (),
        ignore: Sequence[str] = (),
        rename: Callable[[str], str] | None = None,
    ) -> None:
        """Fill `module` from the tensors under `prefix` and put it into evaluation mode.

        `optional` and `ignore` are patterns over names without the prefix: tensors of the module
        that may be missing (they keep their value and must not be empty), and stored ones that the
        module does not want. `rename` maps a module's name to the stored one.
        """
        stored = {name.removeprefix(prefix): name for name in self.names(prefix)}
        self._used.update(stored.values())
        load_tensors(
            module,
            stored.keys(),
            lambda key: self.tensor(prefix + key),
            where=str(self.path),
            prefix=prefix,
            device=device,
            dtype=dtype,
            optional=optional,
            ignore=ignore,
            rename=rename,
            progress=self._progress,
        )

    def _read_index(self) -> dict[str, str]:
        index = self.path / INDEX_FILE
        if index.is_file():
            try:
                file_of: dict[str, str] = json.loads(index.read_text())["weight_map"]
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"{index}: {error!r}") from None
            absent = sorted({f for f in file_of.values() if not (self.path / f).is_file()})
            if absent:
                raise CheckpointError(f"{self.path}: missing shards {', '.join(absent)}")
            for file in sorted(set(file_of.values())):
                listed = {name for name, where in file_of.items() if where == file}
                lacking = sorted(listed - set(self._file(file).keys()))
                if lacking:
                    raise CheckpointError(f"{self.path / file} lacks {_some(lacking)}")
            return file_of
        if (self.path / SINGLE_FILE).is_file():
            return dict.fromkeys(self._file(SINGLE_FILE).keys(), SINGLE_FILE)
        raise CheckpointError(f"{self.path}: neither {SINGLE_FILE} nor {INDEX_FILE}")

    def _handle(self, name: str) -> Any:
        return self._file(self._file_of[name])

    def _file(self, name: str) -> Any:
        if name not in self._open:
            try:
                handle = self._files.enter_context(
                    safe_open(os.fspath(self.path / name), framework="pt", device="cpu")
                )
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{self.path / name}: {error}") from error
            self._open[name] = handle
        return self._open[name]


def load_tensors(
    module: nn.Module,
    names: Iterable[str],
    read: Callable[[str], Tensor],
    *,
    where: str,
    prefix: str = "",
    device: torch.device | str,
    dtype: torch.dtype,
    optional: Sequence[str] = (),
    ignore: Sequence[str] = (),
    rename: Callable[[str], str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Fill `module` with `read(name)`; see `Checkpoint.load`. `names` are all that are stored.

    `where` and `prefix` only serve the messages.
    """
    found = compare_names(module, names, optional=optional, ignore=ignore, rename=rename)
    if problems := found.problems(prefix):
        raise CheckpointError(f"{where}: {problems}")
    with torch.no_grad():
        for key, name in found.stored.items():
            source = read(name)
            _put(module, key, source, f"{where}: {prefix}{name}", torch.device(device), dtype)
            if progress is not None:
                progress(name, source.numel() * source.element_size())
    _finish(module, where, prefix)


class NameComparison(NamedTuple):
    """What a module wants beside what is stored, without the module's prefix."""

    stored: dict[str, str]
    """Stored names by the module's own, of all that is wanted and there."""
    missing: list[str]
    extra: list[str]

    def problems(self, prefix: str = "") -> str:
        """What does not agree, for people; empty if all does."""
        told = [
            *([f"missing {_some(self.missing, prefix)}"] if self.missing else []),
            *([f"unexpected {_some(self.extra, prefix)}"] if self.extra else []),
        ]
        return "; ".join(told)


def compare_names(
    module: nn.Module,
    names: Iterable[str],
    *,
    optional: Sequence[str] = (),
    ignore: Sequence[str] = (),
    rename: Callable[[str], str] | None = None,
) -> NameComparison:
    """Compare `names`, all that are stored, with what a module wants; see `Checkpoint.load`."""
    available = set(names)
    wanted = {key: rename(key) if rename else key for key in module.state_dict(keep_vars=True)}
    return NameComparison(
        stored={key: name for key, name in wanted.items() if name in available},
        missing=sorted(
            name
            for key, name in wanted.items()
            if name not in available and not _matches(key, optional)
        ),
        extra=sorted(
            name for name in available - set(wanted.values()) if not _matches(name, ignore)
        ),
    )


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    where: str,
    device: torch.device | str,
    dtype: torch.dtype,
    optional: Sequence[str] = (),
    ignore: Sequence[str] = (),
    rename: Callable[[str], str] | None = None,
) -> None:
    """Fill `module` from a state dict, e.g. of a `.pt` file read with `weights_only=True`."""
    load_tensors(
        module,
        state.keys(),
        state.__getitem__,
        where=where,
        device=device,
        dtype=dtype,
        optional=optional,
        ignore=ignore,
        rename=rename,
    )


def _put(
    module: nn.Module,
    key: str,
    source: Tensor,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    path, _, leaf = key.rpartition(".")
    owner = module.get_submodule(path)
    target = getattr(owner, leaf)
    if tuple(target.shape) != tuple(source.shape):
        raise CheckpointError(
            f"{name}: shape {list(source.shape)} in the file, {list(target.shape)} in the model"
        )
    # A number that needs a scale beside it would be taken as it stands.
    if target.is_floating_point() and source.dtype not in FLOATS:
        raise CheckpointError(
            f"{name}: {_name(source.dtype)} in the file; only {', '.join(map(_name, FLOATS))} "
            "can be read there"
        )
    kind = dtype if source.is_floating_point() else source.dtype
    value = torch.empty(source.shape, dtype=kind, device=device)
    value.copy_(source)
    if isinstance(target, nn.Parameter):
        setattr(owner, leaf, nn.Parameter(value, requires_grad=False))
    else:
        setattr(owner, leaf, value)


def _finish(module: nn.Module, where: str, prefix: str) -> None:
    for part in module.modules():
        finish = getattr(part, "finish_loading", None)
        if finish is not None:
            finish()
    hollow = [
        name
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
        if tensor.is_meta
    ]
    if hollow:
        raise CheckpointError(f"{where}: no values for {_some(hollow, prefix)}")
    module.requires_grad_(False)
    module.eval()


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _some(names: Sequence[str], prefix: str = "", most: int = 12) -> str:
    shown = ", ".join(prefix + name for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
