r"""Measure the peak memory of `inverse solve` on a volume, in a process of its own.

    python bench/volume_memory.py --slices 64 --method tikhonov
    python bench/volume_memory.py --slices 4 --method dpir

The volume is a smooth random field with noise, in NIfTI.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from options import new_parser
from scipy.ndimage import gaussian_filter


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--method", default="tikhonov")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    field = gaussian_filter(random.normal(size=(args.side, args.side, args.slices)), 4)
    field = 1000 * (field - field.min()) / np.ptp(field)
    noisy = (field + random.normal(0, 30, field.shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.nii.gz"
        nibabel.save(nibabel.Nifti1Image(noisy, np.diag([1, 1, 3, 1.0])), path)
        command = [sys.executable, "-m", "inverse", "solve", "--problem", "denoise"]
        command += ["--method", args.method, "--prior", "mri-96", "--restore", str(path)]
        subprocess.run([*command, "--out", f"{folder}/out"], check=True, capture_output=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{args.slices} x {args.side} x {args.side}, {args.method}: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
