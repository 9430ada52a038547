"""ESPIRiT: sensitivity maps of the coils from the fully sampled centre of k-space.

Source: Uecker, Lai, Murphy, Virtue, Elad, Pauly, Vasanawala, Lustig, ESPIRiT: an eigenvalue
approach to autocalibrating parallel MRI, Magnetic Resonance in Medicine 2014,
https://doi.org/10.1002/mrm.24751.
"""

from __future__ import annotations

import numpy as np

LARGEST_CENTRE = 32
"""Side of the calibration region (frequencies); a larger centre adds time and no accuracy."""


def espirit(
    kspace: np.ndarray,
    centre: tuple[int, int],
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.95,
) -> np.ndarray:
    """Sensitivity maps (coils, H, W), complex, of unit norm over the coils or 0 without signal.

    Their phase is relative to the first coil.

    Args:
        kspace: (coils, H, W), zero frequency at (H // 2, W // 2).
        centre: height and width of its fully sampled centre (frequencies).
        kernel: side of the kernels.
        threshold: smallest singular value of a kernel, relative to the largest.
        crop: eigenvalue below which a pixel has no signal.
    """
    coils, height, width = kspace.shape
    calibration = cropped(kspace, (min(LARGEST_CENTRE, n) for n in centre))
    blocks = np.lib.stride_tricks.sliding_window_view(calibration, (kernel, kernel), (1, 2))
    rows = blocks.transpose(1, 2, 0, 3, 4).reshape(-1, coils * kernel**2)
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    kernels = vectors[values > threshold * values.max()].reshape(-1, coils, kernel, kernel)
    gram = np.zeros((height, width, coils, coils), dtype=np.complex64)
    for one in kernels:
        image = transform(padded(one, (height, width)), inverse=True).transpose(1, 2, 0)
        gram += (image[..., :, None] * image[..., None, :].conj()).astype(np.complex64)
    eigenvalues, eigenvectors = np.linalg.eigh(gram * (height * width / kernel**2))
    maps = eigenvectors[..., -1].transpose(2, 0, 1)
    maps = maps * np.exp(-1j * np.angle(maps[:1]))
    return np.where(eigenvalues[..., -1] > crop, maps, 0).astype(np.complex64)


def calibration_centre(sampled: np.ndarray) -> tuple[int, int]:
    """Height and width of the largest fully sampled rectangle around the zero frequency."""
    height, width = sampled.shape
    best = (0, 0)
    for h in range(1, height + 1):
        rows = sampled[height // 2 - h // 2 : height // 2 - h // 2 + h].all(0)
        gaps = np.flatnonzero(~rows)
        left = width // 2 - gaps[gaps <= width // 2].max(initial=-1) - 1
        right = gaps[gaps >= width // 2].min(initial=width) - width // 2
        w = min(2 * min(left, right) + (right > left), width)
        if w < 1:
            break
        if min(h, LARGEST_CENTRE) * min(w, LARGEST_CENTRE) > min(best[0], LARGEST_CENTRE) * min(
            best[1], LARGEST_CENTRE
        ):
            best = (h, w)
    return best


def transform(x: np.ndarray, inverse: bool = False) -> np.ndarray:
    """The centred orthonormal Fourier transform over the last two axes."""
    function = np.fft.ifft2 if inverse else np.fft.fft2
    moved = np.fft.ifftshift(x, axes=(-2, -1))
    return np.fft.fftshift(function(moved, norm="ortho"), axes=(-2, -1))


def cropped(x: np.ndarray, sides) -> np.ndarray:
    """The part (..., h, w) around the centre (H // 2, W // 2)."""
    h, w = sides
    top, left = x.shape[-2] // 2 - h // 2, x.shape[-1] // 2 - w // 2
    return x[..., top : top + h, left : left + w]


def padded(x: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """x in the centre of zeros: (..., h, w) -> (..., H, W)."""
    (h, w), (height, width) = x.shape[-2:], sides
    answer = np.zeros((*x.shape[:-2], height, width), dtype=x.dtype)
    top, left = height // 2 - h // 2, width // 2 - w // 2
    answer[..., top : top + h, left : left + w] = x
    return answer
