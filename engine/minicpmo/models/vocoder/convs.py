"""The vocoder's convolutions, upsampling ones among them, without their bias.

What comes behind one adds `bias`, in the pass over the result that it makes anyway. On CUDA values
and weights lie channels last (see `channels_last`): cuDNN's TF32 kernels want them so, and else
copies each input and each result. `prepare` once after loading.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.gpu.kernels.vocoder import channels_last


class Conv(nn.Conv1d):
    """A convolution; of zeros in front it wants `lead` in its input, and adds `padding` itself."""

    bias: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        lead: int = 0,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, dilation)
        self.lead = lead
        self._geometry = stride, padding, dilation

    def prepare(self, inputs: int = 0, outputs: int = 0) -> None:
        """`inputs`, `outputs`: channels to make it have, with weights of zero for those added."""
        more = [max(inputs - self.in_channels, 0), max(outputs - self.out_channels, 0)]
        wide = F.pad(self.weight.detach(), (0, 0, 0, more[0], 0, more[1]))
        self.weight = nn.Parameter(laid_out(wide), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, lead + T] -> [B, outputs, about T / stride]."""
        return _convolve(x, self.weight, *self._geometry)


class PaddedConv(Conv):
    """As long as what it is given: looks back if causal, else to both sides."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, causal: bool, dilation: int = 1
    ) -> None:
        span = (kernel - 1) * dilation
        assert causal or span % 2 == 0, f"kernel {kernel} of dilation {dilation} has no middle"
        pads = {"lead": span} if causal else {"padding": span // 2}
        super().__init__(inputs, outputs, kernel, dilation=dilation, **pads)


class Downsampler(Conv):
    """A strided convolution: one value of `rate`."""

    def __init__(self, inputs: int, outputs: int, rate: int, *, causal: bool) -> None:
        kernel = 2 * rate if rate > 1 else 1
        pads = {"lead": rate - 1} if causal else {"padding": rate // 2 if rate > 1 else 0}
        super().__init__(inputs, outputs, kernel, stride=rate, **pads)


class RepeatUpsampler(nn.Conv1d):
    """The causal generation's: repeats each value, then a convolution that looks back.

    Done as one convolution before the repeating: as many outputs for each value as there will be
    values, each with the sums of the weights that meet the same value.
    """

    bias: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, rate: int) -> None:
        super().__init__(inputs, outputs, kernel)
        self.rate = rate
        self.lead = -(-(kernel - 1) // rate)

    def prepare(self) -> None:
        """Make the weights [outputs, inputs, kernel] those of the phases."""
        weight = self.weight.detach()
        outputs, inputs, kernel = weight.shape
        phases = weight.new_zeros(self.rate, outputs, inputs, self.lead + 1, dtype=torch.float64)
        for phase in range(self.rate):
            for place in range(kernel):
                tap = (phase - (kernel - 1) + place) // self.rate + self.lead
                phases[phase, :, :, tap] += weight[:, :, place]
        phases = phases.to(weight.dtype).flatten(0, 1)
        self.weight = nn.Parameter(laid_out(phases), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, lead + T] -> [B, outputs, T * rate]."""
        return _interleaved(_convolve(x, self.weight), self.rate)


class TransposedUpsampler(nn.ConvTranspose1d):
    """The original generation's transposed convolution.

    Done as a convolution as well, see `RepeatUpsampler`: its results lie as they are wanted.
    """

    bias: Tensor
    lead = 0

    def __init__(self, inputs: int, outputs: int, kernel: int, rate: int) -> None:
        assert (kernel - rate) % 2 == 0, f"kernel {kernel} of rate {rate} has no middle"
        super().__init__(inputs, outputs, kernel, rate, (kernel - rate) // 2)
        self.rate, self.pad = rate, (kernel - rate) // 2
        self.reach = (rate - 1 + self.pad) // rate

    def prepare(self) -> None:
        """Make the weights [inputs, outputs, kernel] those of the phases."""
        weight = self.weight.detach()
        inputs, outputs, kernel = weight.shape
        phases = weight.new_zeros(self.rate, outputs, inputs, 2 * self.reach + 1)
        for phase in range(self.rate):
            for tap in range(2 * self.reach + 1):
                place = phase + self.pad - self.rate * (tap - self.reach)
                if 0 <= place < kernel:
                    phases[phase, :, :, tap] = weight[:, :, place].T
        self.weight = nn.Parameter(laid_out(phases.flatten(0, 1)), requires_grad=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """x [B, C, T] -> [B, outputs, T * rate]."""
        assert output_size is None
        return _interleaved(_convolve(x, self.weight, padding=self.reach), self.rate)


Upsampler = RepeatUpsampler | TransposedUpsampler


def laid_out(weight: Tensor) -> Tensor:
    """A weight [outputs, inputs, K] as `_convolve` wants it: on CUDA [outputs, inputs, 1, K]."""
    return channels_last(weight).unsqueeze(2) if weight.is_cuda else weight.contiguous()


def _convolve(
    x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """x [B, C, T] -> [B, outputs, T']; of two dimensions where `weight` has four, channels last."""
    if weight.ndim == 3:
        return F.conv1d(x, weight, None, stride, padding, dilation)
    # Torch keeps a layout only with four dimensions; with three it makes a contiguous copy.
    flat = channels_last(x).unsqueeze(2)
    out = F.conv2d(flat, weight, None, (1, stride), (0, padding), (1, dilation))
    return out.squeeze(2)


def _interleaved(x: Tensor, rate: int) -> Tensor:
    """[B, rate * C, T], the phases one behind the other -> [B, C, T * rate].

    A view of what lies channels last.
    """
    batch, channels, length = x.shape
    return x.view(batch, rate, channels // rate, length).permute(0, 2, 3, 1).flatten(2)
