"""Split brain slices into a training and a held-out set for `mri-96`.

    python bench/mri_slices.py --data "$INVERSE_DATA/medical/brain_t1ce_96.npz" --out out/mri

No training slice has a neighbour in the held-out set. Slices are ordered by number, so that slices
of one series are neighbours (neighbours differ half as much as random pairs). Three blocks of a
hundred slices are held out, one in each class of tumour, and 25 slices on each side of a block are
dropped. The file does not name patients: a patient may have axial slices in the held-out set and
sagittal slices, hundreds of numbers away, in the training set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from options import new_parser

HELD_OUT = ((1300, 1400), (300, 400), (2300, 2400))
GUARD = 25


def split(images: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out slices (N, H, W), ordered by the numbers in `names`.

    Args:
        images: (N, H, W).
        names: "class/number.jpg" for each slice.
    """
    number = np.array([int(name.split("/")[1].removesuffix(".jpg")) for name in names])
    order = np.argsort(number)
    images, number = images[order], number[order]
    held_out = np.any([(number >= a) & (number < b) for a, b in HELD_OUT], axis=0)
    near = np.any([(number >= a - GUARD) & (number < b + GUARD) for a, b in HELD_OUT], axis=0)
    return images[~near], images[held_out]


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help=".npz of slices and names")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for train.npz and held-out.npz"
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
