"""Split the brain slices that `mri-96` is trained on into blocks, so that no slice has a neighbour on the other side.

    python bench/mri_slices.py --data ../shared/data/medical/brain_t1ce_96.npz --out out/mri

Slices are put in the order of their numbers, in which those of one series are neighbours (they differ by half as much as two
drawn at random). The held-out ones are three blocks of a hundred, one in each class of tumour; 25 slices on each side of a block are
dropped. The file names no patients: one whose axial slices are held out may have sagittal ones, hundreds of numbers away, to train on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

HELD_OUT = ((1300, 1400), (300, 400), (2300, 2400))
GUARD = 25


def split(images: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out slices (N, H, W), in the order of the numbers in `names` ("class/number.jpg")."""
    number = np.array([int(name.split("/")[1].removesuffix(".jpg")) for name in names])
    order = np.argsort(number)
    images, number = images[order], number[order]
    held_out = np.any([(number >= a) & (number < b) for a, b in HELD_OUT], axis=0)
    near = np.any([(number >= a - GUARD) & (number < b + GUARD) for a, b in HELD_OUT], axis=0)
    return images[~near], images[held_out]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of train.npz and held-out.npz"
    )
    arguments = parser.parse_args()

    with np.load(arguments.data, allow_pickle=False) as archive:
        train, held_out = split(archive["images"], archive["names"])
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, part in {"train": train, "held-out": held_out}.items():
        np.savez_compressed(arguments.out / f"{name}.npz", images=part)
        print(f"{arguments.out / name}.npz: {len(part)} slices")


if __name__ == "__main__":
    main()
