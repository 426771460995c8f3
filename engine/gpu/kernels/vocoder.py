"""Steps between the vocoder's convolutions, each as one kernel on CUDA: channels last, float32 or
float16, with weights in float32.

There the values of a tensor [B, C, T] lie as those of a contiguous [B, T, C]. The kernels add the
bias of the convolution before them, which cuDNN would do in a pass of its own, and put the zeros in
front that a causal convolution behind them looks back at. Torch operations are used on other
devices, for widths that are no multiple of four, and where NVRTC is not to be had.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.gpu.kernels.loader import Argument, Kernel, null

SNAKE_EPS = 1e-9

_QUAD = 4
_THREADS = 256
_MEANT = 3

_JOIN = {
    dtype: Kernel("join", dtype, HALF=int(dtype is torch.float16))
    for dtype in (torch.float32, torch.float16)
}
_LEAKY_MEAN = {
    (torch.float32, torch.float32): Kernel("leaky_mean", torch.float32, HALF=0, WIDE=0),
    (torch.float16, torch.float16): Kernel("leaky_mean", torch.float16, HALF=1, WIDE=0),
    (torch.float16, torch.float32): Kernel("leaky_mean", torch.float16, HALF=1, WIDE=1),
}


def channels_last(x: Tensor) -> Tensor:
    """x [B, C, T] with exactly the strides of a contiguous [B, T, C]; a copy if need be.

    Torch's own test of a layout passes any strides along dimensions of size one.
    """
    batch, channels, length = x.shape
    if x.stride() == (length * channels, 1, channels):
        return x
    return _empty(x, length).copy_(x)


def led(x: Tensor, lead: int) -> Tensor:
    """x [B, C, T] behind `lead` zeros, in the layout that it has."""
    # With three dimensions torch keeps only the contiguous layout.
    return F.pad(x.unsqueeze(2), (lead, 0)).squeeze(2) if lead else x


def snake(
    x: Tensor, bias: Tensor | None, alpha: Tensor, own: Tensor | None = None, lead: int = 0
) -> Tensor:
    """v + sin(alpha v)^2 / (alpha + eps) of v = x + bias (arXiv 2006.08195), behind zeros.

    Args:
        x: [B, C, T].
        bias, alpha: [C].
        own: how many of T are each row's [B], int64; zeros come of what is behind them.
        lead: zeros in front, so that the result is [B, C, lead + T].
    """
    return _joined(x, None, bias, alpha, own, lead)[1]


def add_snake(
    x: Tensor,
    y: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    own: Tensor | None = None,
    lead: int = 0,
) -> tuple[Tensor, Tensor]:
    """x + y + bias [B, C, T], and what `snake` makes of it."""
    return _joined(x, y, bias, alpha, own, lead, keeps_sum=True)


def add(
    x: Tensor, y: Tensor, bias: Tensor, own: Tensor | None = None, *, mirrored: bool = False
) -> Tensor:
    """x + y + bias [B, C, T], zeros behind each row's own; see `snake`.

    `mirrored`: y [B, C, T - 1] has its second value before its first one as well.
    """
    return _joined(x, y, bias, None, own, mirrored=mirrored, keeps_sum=True)[0]


def leaky_mean(
    parts: Sequence[Tensor], slope: float, lead: int = 0, dtype: torch.dtype | None = None
) -> Tensor:
    """Leaky ReLU of the mean of [B, C, T] each, behind `lead` zeros: [B, C, lead + T].

    `dtype`: of the result, if it is not that of the parts.
    """
    first = parts[0]
    dtype = dtype or first.dtype
    kernel = None
    if len(parts) == _MEANT and first.is_cuda:
        parts = [channels_last(part) for part in parts]
        kernel = _LEAKY_MEAN[first.dtype, dtype].on(parts[0], _fit(*parts))
    if kernel is None:
        return led(F.leaky_relu(sum(parts[1:], first) / len(parts), slope), lead).to(dtype)
    batch, channels, length = first.shape
    out = _empty(first, lead + length, dtype)
    quads = channels // _QUAD
    arguments: list[Argument] = [*parts, out, length * quads, lead * quads, float(slope)]
    kernel(_grid(batch, quads * (lead + length)), (_THREADS, 1, 1), arguments)
    return out


# ------------------------------------------------------------------ details


def _joined(
    x: Tensor,
    y: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor | None,
    own: Tensor | None,
    lead: int = 0,
    *,
    mirrored: bool = False,
    keeps_sum: bool = False,
) -> tuple[Tensor, Tensor]:
    """The sum and its snake, each without meaning where it is not asked for."""
    kernel = None
    if x.is_cuda:
        x, y = channels_last(x), None if y is None else channels_last(y)
        kernel = _JOIN[x.dtype].on(x, _fit(x, y, bias, alpha))
    if kernel is None:
        return _plain(x, y, bias, alpha, own, lead, mirrored)
    batch, channels, length = x.shape
    quads, nothing = channels // _QUAD, null(x.device)
    assert own is None or (own.dtype == torch.int64 and own.is_contiguous())
    assert y is None or y.shape == (batch, channels, length - mirrored)
    total = _empty(x, length) if keeps_sum else nothing
    out = nothing if alpha is None else _empty(x, lead + length)
    given = [nothing if part is None else part for part in (y, bias, alpha, own)]
    numbers = [quads, length * quads, lead * quads, int(mirrored), SNAKE_EPS]
    arguments: list[Argument] = [x, *given, total, out, *numbers]
    kernel(_grid(batch, quads * (lead + length)), (_THREADS, 1, 1), arguments)
    return total, out


def _plain(
    x: Tensor,
    y: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor | None,
    own: Tensor | None,
    lead: int,
    mirrored: bool,
) -> tuple[Tensor, Tensor]:
    """`_joined` in torch operations."""
    dtype = x.dtype
    more = None if bias is None else bias[:, None]
    if y is not None:
        if mirrored:
            # Four dimensions, to keep the layout.
            y = torch.cat([y[:, :, None, 1:2], y.unsqueeze(2)], dim=-1).squeeze(2)
        more = y if more is None else y + more
    total = x if more is None else x + more
    if own is not None:
        behind = torch.arange(total.shape[2], device=x.device) >= own[:, None, None]
        total = total.masked_fill(behind, 0)
    if alpha is None:
        return total.to(dtype), total.to(dtype)
    factor = alpha[:, None]
    out = total + (total * factor).sin().square() / (factor + SNAKE_EPS)
    return total.to(dtype), led(out.to(dtype), lead)


def _fit(x: Tensor, *others: Tensor | None) -> bool:
    """Return whether a kernel can work on these: it reads and writes four values at a time."""
    if x.shape[1] % _QUAD or not x.numel():
        return False
    given = [part for part in (x, *others) if part is not None]
    return not any(part.data_ptr() % (_QUAD * part.element_size()) for part in given)


def _empty(like: Tensor, length: int, dtype: torch.dtype | None = None) -> Tensor:
    """[B, C, length] for rows and channels of another, channels last."""
    return like.new_empty(like.shape[0], length, like.shape[1], dtype=dtype).transpose(1, 2)


def _grid(batch: int, count: int) -> tuple[int, int, int]:
    return -(-count // _THREADS), batch, 1
