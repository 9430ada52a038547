"""Draw random anatomical phantoms: slices of bodies with fat, bones, organs, air and textures.

    python bench/phantoms.py --count 4000 --seed 0 --out out/phantoms/train.npz
    python bench/phantoms.py --count 200 --seed 1 --out out/phantoms/held-out.npz

Intensities are attenuations from 0 (air) to 1 (the densest bone), 8 bit; the body lies within the
circle that every view of a scan sees. Shapes are ellipses whose radius varies smoothly with the
angle, warped together by a smooth displacement; a shape replaces what lies below it. They resemble
no patient and teach edges, contrasts and textures alone.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from options import new_parser
from scipy.ndimage import gaussian_filter, map_coordinates

FINE = 2
"""Points of a pixel on each axis, which are averaged."""

ORDERS = (2, 3, 5)
"""Waves of the outline of a shape around it."""

REACH = 0.2
"""Largest displacement of a point (half sides)."""


def phantom(rng: np.random.Generator, size: int) -> np.ndarray:
    """One slice (size, size), attenuations from 0 to 1."""
    fine = size * FINE
    y, x = (np.mgrid[:fine, :fine] + 0.5) / fine * 2 - 1
    y, x = (axis + rng.uniform(0.01, 0.06) * smooth(rng, fine, 0.15) for axis in (y, x))
    slice_ = np.zeros((fine, fine))
    a, b, turn = rng.uniform(0.55, 0.88), rng.uniform(0.45, 0.85), rng.uniform(0, math.pi)
    soft = rng.uniform(0.3, 0.55)
    outline = shape(rng, x, y, (0, 0), (a, b), turn, 0.05)
    slice_[outline] = soft * rng.uniform(0.7, 0.95)  # fat
    inner = shape(rng, x, y, (0, 0), (a * rng.uniform(0.8, 0.96), b * 0.9), turn, 0.05)
    slice_[inner & outline] = soft
    for _ in range(rng.integers(2, 9)):  # organs, and rarely air
        kind = rng.random()
        level = 0.02 if kind < 0.12 else soft * rng.uniform(0.75, 1.35)
        place = inside(rng, a, b, turn)
        sides = rng.uniform(0.05, 0.38, 2)
        slice_[shape(rng, x, y, place, sides, rng.uniform(0, math.pi), 0.2) & inner] = level
    for _ in range(rng.integers(1, 6)):  # bones with a shell
        place, sides = inside(rng, a, b, turn), rng.uniform(0.03, 0.16, 2)
        angle, wall = rng.uniform(0, math.pi), rng.uniform(0.4, 0.85)
        state = rng.bit_generator.state
        slice_[shape(rng, x, y, place, sides, angle, 0.15) & inner] = rng.uniform(0.75, 1.0)
        after, rng.bit_generator.state = rng.bit_generator.state, state
        marrow = shape(rng, x, y, place, sides * wall, angle, 0.15)
        rng.bit_generator.state = after
        slice_[marrow & inner] = soft * rng.uniform(1.0, 1.6)
    for _ in range(rng.integers(0, 12)):  # vessels and small lesions
        place, sides = inside(rng, a, b, turn), rng.uniform(0.01, 0.04, 2)
        slice_[shape(rng, x, y, place, sides, 0.0, 0.1) & inner] = rng.uniform(0.2, 0.9)
    texture = smooth(rng, fine, rng.uniform(0.01, 0.04))
    slice_ = slice_ * (1 + rng.uniform(0, 0.08) * texture) * (1 + 0.05 * smooth(rng, fine, 0.3))
    slice_ = gaussian_filter(slice_, rng.uniform(0.3, 1.2) * FINE / 2)
    mean = slice_.reshape(size, FINE, size, FINE).mean((1, 3))
    axis = np.arange(size) - size // 2
    circle = axis[:, None] ** 2 + axis**2 < (size // 2 - 1) ** 2
    return np.clip(mean, 0, 1) * circle


def inside(rng: np.random.Generator, a: float, b: float, turn: float) -> tuple[float, float]:
    """A point of a turned ellipse (x, y)."""
    radius, angle = math.sqrt(rng.uniform(0, 0.8)), rng.uniform(0, 2 * math.pi)
    u, v = a * radius * math.cos(angle), b * radius * math.sin(angle)
    return (
        u * math.cos(turn) - v * math.sin(turn),
        u * math.sin(turn) + v * math.cos(turn),
    )


def shape(rng, x, y, place, sides, turn: float, wobble: float) -> np.ndarray:
    """The points of an ellipse whose radius varies by `wobble` with the angle: boolean."""
    phases = [(rng.normal(), rng.uniform(0, 7)) for _ in ORDERS]
    answer = np.zeros(x.shape, dtype=bool)
    reach = max(sides) * (1 + 3 * wobble) + REACH
    low, high = (
        np.clip([round((c + s * reach + 1) / 2 * len(x)) for c in place], 0, len(x))
        for s in (-1, 1)
    )
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    dx, dy = x[window] - place[0], y[window] - place[1]
    u = (dx * math.cos(turn) + dy * math.sin(turn)) / sides[0]
    v = (dy * math.cos(turn) - dx * math.sin(turn)) / sides[1]
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    edge = np.ones_like(radius)
    for order, (size, phase) in zip(ORDERS, phases, strict=True):
        edge += wobble / order * size * np.cos(order * angle + phase)
    answer[window] = radius < edge
    return answer


def smooth(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """A smooth random field (size, size) of unit deviation, correlated over `scale` of a side."""
    coarse = max(4, min(size, round(3 / scale)))
    field = gaussian_filter(rng.normal(size=(coarse + 4,) * 2), 1.0)
    places = np.linspace(2, coarse + 1, size)
    field = map_coordinates(field, np.meshgrid(places, places, indexing="ij"), order=1)
    return (field - field.mean()) / max(field.std(), 1e-9)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--count", type=int, default=4000, help="number of slices")
    parser.add_argument("--size", type=int, default=96, help="side of a slice (pixels)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help=".npz of images")
    arguments = parser.parse_args()

    streams = np.random.SeedSequence(arguments.seed).spawn(arguments.count)
    slices = [phantom(np.random.default_rng(s), arguments.size) for s in streams]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    images = np.round(255 * np.stack(slices)).astype(np.uint8)
    np.savez_compressed(arguments.out, images=images)
    print(f"{arguments.out}: {len(images)} slices")


if __name__ == "__main__":
    main()
