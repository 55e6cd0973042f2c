"""HR -> LR, one implementation for training, evaluation, enhancement and tests (section 4.1).

`bicubic` is MATLAB's imresize (Keys, 1981, a = -0.5): antialiased when it shrinks, symmetric
borders. It also upsamples, so the method bicubic and the generator's skip use the same
kernel. torch's own interpolate has a = -0.75 without antialiasing and other borders with it.

`kspace` keeps the central part of k-space, as a shorter acquisition of the same field of view does.

Both are linear for real images, which stay real and keep their sign: a z-scored scan keeps its
mean, air at -1000 stays there, and the ringing beside an edge may reach a little below zero. Only
complex images give magnitudes.

Both put LR pixel j over HR pixels s*j .. s*j + s - 1. So a crop of the LR image at (i, j) and of
the HR image at (s*i, s*j) show the same anatomy, and flipping both keeps that true. Degrade whole
slices and crop afterwards: a degraded patch is not the patch of a degraded slice.

By hand: `python -c "import torch; from mrsr.resampling import degrade;
print(degrade(torch.rand(8, 8), 2, 'bicubic'))"`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mrsr.errors import UserError

SCALES = (2, 3, 4, 8)
KINDS = ("bicubic", "kspace")


def _cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys' cubic convolution kernel, support [-2, 2]."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resize_matrix(n_in: int, n_out: int) -> np.ndarray:
    """(n_out, n_in) float64: MATLAB's imresize of one dimension as a matrix; rows sum to 1.

    When it shrinks, the kernel is stretched by n_in / n_out (antialiasing). Borders are symmetric,
    the edge sample repeated: ... b a | a b ... y z | z y ...
    """
    if n_in < 1 or n_out < 1:
        raise ValueError(f"cannot resize {n_in} samples to {n_out}")
    ratio = n_out / n_in
    stretch = max(1.0, 1 / ratio)
    centre = (np.arange(n_out) + 0.5) / ratio - 0.5  # of each output sample, in input samples
    first = np.floor(centre - 2 * stretch).astype(int)
    taps = first[:, None] + np.arange(int(np.ceil(4 * stretch)) + 2)
    weights = _cubic((centre[:, None] - taps) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    source = taps % (2 * n_in)
    source = np.where(source < n_in, source, 2 * n_in - 1 - source)
    matrix = np.zeros((n_out, n_in))
    np.add.at(matrix, (np.arange(n_out)[:, None], source), weights)
    return matrix


_matrices: dict[tuple[int, int, str], Tensor] = {}


def _matrix(n_in: int, n_out: int, device: str) -> Tensor:
    key = (n_in, n_out, device)
    if key not in _matrices:
        # made under inference_mode it could not take part in a later backward pass
        with torch.inference_mode(False):
            matrix = torch.from_numpy(resize_matrix(n_in, n_out))
            _matrices[key] = matrix.float().to(device) if "mps" in device else matrix.to(device)
    return _matrices[key]


# torch.compile takes the matrix as it is. All that torch.compiler.assume_constant_result does is
# to set this, after importing the compiler: as long again as torch, in jobs that compile nothing.
_matrix._dynamo_marked_constant = True  # type: ignore[attr-defined]


def bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize real images (..., H, W) to (..., *size), in any intensity unit, same dtype.

    The products are in float64: neither autocast nor TF32 touches those, and their cost is nothing
    beside a network's. Differentiable.
    """
    height, width = x.shape[-2:]
    device = str(x.device)
    rows = _matrix(height, size[0], device)
    columns = _matrix(width, size[1], device)
    return (rows @ x.to(rows.dtype) @ columns.mT).to(x.dtype)


def upsample(lr: Tensor, scale: int) -> Tensor:
    """(..., h, w) -> (..., scale * h, scale * w) with the kernel of `bicubic`."""
    if torch.compiler.is_exporting():  # a graph for any size cannot hold matrices of one size
        return upsample_by_taps(lr, scale)
    return bicubic(lr, (lr.shape[-2] * scale, lr.shape[-1] * scale))


def upsample_by_taps(lr: Tensor, scale: int) -> Tensor:
    """`upsample` of (n, 1, h, w), h and w two or more, as one convolution: any size, one graph.

    Each output pixel is a sum over 5x5 input pixels with the same weights everywhere, because
    borders are symmetric. In the image's type, so that it differs from `upsample` by rounding.
    """
    phases = (np.arange(scale) + 0.5) / scale - 0.5  # of output pixels, in input pixels
    taps = _cubic(phases[:, None] - np.arange(-2, 3))
    kernel = np.einsum("ai,bj->abij", taps, taps).reshape(scale**2, 1, 5, 5)
    rows = [lr[..., 1:2, :], lr[..., :1, :], lr, lr[..., -1:, :], lr[..., -2:-1, :]]
    image = torch.cat(rows, dim=-2)
    columns = [image[..., 1:2], image[..., :1], image, image[..., -1:], image[..., -2:-1]]
    weight = torch.from_numpy(kernel).to(lr)
    fine = torch.nn.functional.conv2d(torch.cat(columns, dim=-1), weight)
    return torch.nn.functional.pixel_shuffle(fine, scale)


def _central(n: int, scale: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which of n FFT bins stay, in FFT order, and the phase that centres LR pixels over theirs.

    A plain crop puts LR sample j on HR sample s*j: half an HR pixel off at 2x, which would charge
    every method, and double under a flip. Moving by (s - 1) / 2 HR pixels is a linear phase.
    """
    kept = n // scale
    frequency = (torch.arange(kept, device=device) + kept // 2) % kept - kept // 2
    phase = torch.exp(2j * torch.pi * frequency.double() * ((scale - 1) / 2 / n))
    return frequency % n, phase


def kspace_matrix(n: int, scale: int) -> Tensor:
    """(n / scale, n) complex128: `kspace_crop` of one dimension as a matrix; n divides by scale."""
    kept, phase = _central(n, scale, torch.device("cpu"))
    rows = torch.fft.fft(torch.eye(n, dtype=torch.float64), dim=0, norm="forward")[kept]
    return torch.fft.ifft(rows * phase[:, None], dim=0, norm="forward")


def kspace_crop(x: Tensor, scale: int) -> Tensor:
    """Keep the central 1/scale of k-space in both directions; intensities are preserved.

    x: (..., H, W), H and W divisible by scale. A real x gives the real image (..., H/s, W/s) with
    its sign, a complex x the complex image; the mean stays. Frequencies -h/2 ... h/2 - 1 are kept,
    as an acquisition of h samples has them. Of a real x, -h/2, which has no opposite for even h,
    counts by half, with its opposite: that is the real part.
    """
    height, width = x.shape[-2:]
    _check_divisible(height, width, scale)
    if not x.is_complex() and x.dtype != torch.float64:
        x = x.float()
    rows, row_phase = _central(height, scale, x.device)
    columns, column_phase = _central(width, scale, x.device)
    kspace = torch.fft.fft2(x, norm="forward")
    kspace = kspace.index_select(-2, rows).index_select(-1, columns)
    phase = (row_phase[:, None] * column_phase).to(kspace.dtype)
    image = torch.fft.ifft2(kspace * phase, norm="forward")
    return image if x.is_complex() else image.real


def check(scale: int, kind: str) -> None:
    """Raise a `UserError` for an unknown scale or kind of degradation."""
    if scale not in SCALES:
        raise UserError(f"scale {scale} is not one of {', '.join(map(str, SCALES))}")
    if kind not in KINDS:
        raise UserError(f"degradation '{kind}' is not one of {', '.join(KINDS)}")


def degrade(hr: Tensor, scale: int, kind: str) -> Tensor:
    """LR images (..., H/s, W/s) float32 of whole HR images (..., H, W).

    hr: real or complex, in any intensity unit, H and W divisible by scale (see `pad_to`). Real
    images keep their sign.
    kind: of complex images, "bicubic" resizes the magnitude; "kspace" crops k-space, then takes the
    magnitude.

    Raises:
        UserError: the scale or the kind is not one of `SCALES` and `KINDS`, or sizes do not divide.
    """
    check(scale, kind)
    height, width = hr.shape[-2:]
    _check_divisible(height, width, scale)
    if kind == "kspace":
        lr = kspace_crop(hr, scale)
    else:
        magnitude = hr.abs() if hr.is_complex() else hr
        if not magnitude.is_floating_point():
            magnitude = magnitude.float()
        lr = bicubic(magnitude, (height // scale, width // scale))
    return (lr.abs() if lr.is_complex() else lr).float()


def sampled_lines(width: int, acceleration: int) -> Tensor:
    """(width,) bool in FFT order: the k-space lines that an accelerated acquisition takes.

    Every `acceleration`-th line and a fully sampled centre of 0.32 / acceleration of all, which is
    8 % at 4x as in fastMRI's masks; equispaced, so that there is one fixed mask of a width.
    """
    frequency = (torch.arange(width) + width // 2) % width - width // 2
    centre = max(1, round(0.32 / acceleration * width))
    central = (frequency >= -(centre // 2)) & (frequency < centre - centre // 2)
    return (frequency % acceleration == 0) | central


def undersample(lr: Tensor, acceleration: int) -> Tensor:
    """Undersample real LR images (..., h, w) in k-space; the result is aliased, and has a sign.

    Lines are columns of the 2D Fourier transform; what was not sampled is zero. 1 changes nothing.
    A line that was sampled without its opposite counts by half: that is the real part.
    """
    if acceleration == 1:
        return lr
    lines = sampled_lines(lr.shape[-1], acceleration).to(lr.device)
    return torch.fft.ifft2(torch.fft.fft2(lr.float()) * lines).real.to(lr.dtype)


def pad_to(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Repeat the last row and column until H and W divide by `multiple`.

    Returns the padded images (..., H', W') and the (H, W) to crop back to.
    """
    height, width = x.shape[-2:]
    for dim, size in ((-2, height), (-1, width)):
        if size % multiple:
            index = torch.arange(size + -size % multiple, device=x.device).clamp(max=size - 1)
            x = x.index_select(dim, index)
    return x, (height, width)


def _check_divisible(height: int, width: int, scale: int) -> None:
    if height % scale or width % scale:
        raise UserError(
            f"an image of {height}x{width} does not divide by scale {scale}; pad it first"
        )
