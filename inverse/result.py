"""The result of a solve: samples, measurement, cost and provenance, with its HDF5 file."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inverse.errors import InputError, OptionError
from inverse.execution import Cost
from inverse.io.arrays import own_datasets, stored
from inverse.io.files import atomic_write, strict_json
from inverse.seeding import seeded

FORMAT = "inverse-result 1"
"""What the attribute `format` of a result's file says."""

TENSORS = ("samples", "y", "misfit", "truth", "log_weights", "log_evidence")
"""Fields of a result that hold a tensor for each image; the last three may be None."""


def collapse_notes(method: str, trace: list[dict[str, Any]] | None) -> list[str]:
    """Notes if few particles of some measurement carried the answer at the end of a trace.

    Args:
        method: name of the method.
        trace: of a particle method, with the effective sample size `ess` of each measurement, and
            that of its `distinct` particles.
    """
    last = (trace or [{}])[-1]
    sizes = last.get("ess", [])
    alone = sum(size < 1.1 for size in sizes)
    copies = sum(
        n <= 3 and size >= 1.1 for n, size in zip(last.get("distinct", []), sizes, strict=False)
    )
    advice = "try more particles or steps, or a larger sigma_y"
    notes = []
    if alone:
        notes.append(
            f"{method} ended with one particle in {alone} of {len(sizes)} measurements: its "
            f"samples are copies or have no weight; {advice}"
        )
    if copies:
        notes.append(
            f"{method} ended with three different particles or fewer in {copies} of {len(sizes)} "
            f"measurements: its samples are copies; {advice}"
        )
    return notes


@dataclass(frozen=True, repr=False)
class Result:
    """Posterior samples in physical units, with the measurement, cost and provenance.

    Args:
        samples: (images, samples, *shape).
        y: measurements (images, *out_shape).
        misfit: residual chi-square per measurement of every sample (images, samples):
            |y - A x|^2 / (m sigma_y^2), close to 1 for a draw from the posterior; NaN if the noise
            is not Gaussian or sigma_y is 0.
        cost: evaluations counted by the posterior.
        seconds: wall time inside the method, without observers.
        truth: (images, *shape), if known.
        log_weights: normalised log weights (images, samples) of a weighted ensemble.
        log_evidence: log p(y) (images,), nats, if the method estimates it.
        interrupted: whether the solve was interrupted before its end.
        provenance: names, options, versions, hashes and seed, sufficient to repeat the solve.
    """

    samples: Tensor
    y: Tensor
    misfit: Tensor
    cost: Cost
    seconds: float
    truth: Tensor | None = None
    log_weights: Tensor | None = None
    log_evidence: Tensor | None = None
    interrupted: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The names, sizes and costs, one line each; tensors by their shapes."""
        ran = {
            key: value.get("name", "?") if isinstance(value, dict) else value
            for key in ("problem", "method", "prior")
            if (value := self.provenance.get(key)) is not None
        }
        tensors = ((name, getattr(self, name)) for name in TENSORS)
        shapes = (f"{name} {tuple(t.shape)}" for name, t in tensors if t is not None)
        lines = [
            ", ".join(f"{key} {str(value)[:40]}" for key, value in ran.items()) or "no provenance",
            ", ".join(shapes),
            f"{self.cost.nfe:g} prior evaluations, {self.seconds:.3g} s"
            + (", interrupted" if self.interrupted else ""),
        ]
        return "Result(\n" + "".join(f"  {line}\n" for line in lines) + ")"

    @property
    def weights(self) -> Tensor:
        """Normalised weights (images, samples)."""
        if self.log_weights is None:
            return torch.full(
                self.samples.shape[:2], 1 / self.samples.shape[1], dtype=self.samples.dtype
            )
        return self.log_weights.softmax(1).to(self.samples.dtype)

    @property
    def mean(self) -> Tensor:
        """Posterior mean (images, *shape)."""
        return (self._row_weights() * self.samples).sum(1)

    @property
    def std(self) -> Tensor:
        """Posterior standard deviation per pixel (images, *shape); zero for a single sample.

        The variance is unbiased for equal weights.
        """
        n = self.samples.shape[1]
        if n == 1:
            return torch.zeros_like(self.samples[:, 0])
        variance = (self._row_weights() * (self.samples - self.mean[:, None]) ** 2).sum(1)
        ess = 1 / self.weights.square().sum(1)
        correction = (ess / (ess - 1).clamp_min(1 / n)).reshape(-1, *[1] * (variance.ndim - 1))
        return (variance * correction).sqrt()

    @property
    def ess(self) -> Tensor:
        """Effective sample size 1 / sum w^2 (images,), in equally weighted samples."""
        return 1 / self.weights.double().square().sum(1)

    @property
    def best(self) -> Tensor:
        """The sample of largest weight (images, *shape); the first for equal weights."""
        return self.samples[torch.arange(len(self.samples)), self.weights.argmax(1)]

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """Equally weighted samples (images, count, *shape), drawn by weight with replacement.

        Raises: OptionError for a count below 1.
        """
        if count < 1:
            raise OptionError(f"draw: count must be at least 1, got {count}")
        chosen = [
            torch.multinomial(w, count, replacement=True, generator=seeded(seed, "draw", i))
            for i, w in enumerate(self.weights)
        ]
        return torch.stack(
            [samples[index] for samples, index in zip(self.samples, chosen, strict=True)]
        )

    def image(self, index: int) -> Result:
        """The result of a single image of a batch.

        Its seconds are an equal share of the batch's. Its cost is that of the whole batch, counted
        in rows of the batch.

        Raises: InputError for an image that does not exist.
        """
        images = len(self.samples)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < images:
            raise InputError(f"image {index!r} does not exist; there are {images}, counted from 0")
        tensors = {name: getattr(self, name) for name in TENSORS}
        parts: dict[str, Any] = {
            name: None if value is None else value[index : index + 1]
            for name, value in tensors.items()
        }

        def of_image(value: Any) -> Any:
            is_per_image = isinstance(value, list) and len(value) == images
            return [value[index]] if is_per_image else value

        provenance = dict(self.provenance)
        if trace := provenance.get("trace"):
            provenance["trace"] = [{k: of_image(v) for k, v in step.items()} for step in trace]
            name = provenance["method"]["name"]
            whole, own = collapse_notes(name, trace), collapse_notes(name, provenance["trace"])
            kept = [note for note in provenance.get("notes", []) if note not in whole]
            provenance["notes"] = [*kept, *own]
        return replace(self, **parts, seconds=self.seconds / images, provenance=provenance)

    def _row_weights(self) -> Tensor:
        return self.weights.reshape(*self.weights.shape, *[1] * (self.samples.ndim - 2))

    def save(self, path: str | Path) -> None:
        """Write an HDF5 file.

        `samples`, `y` and `misfit` are float32 datasets, and so are `truth`, `log_weights` and
        `log_evidence` if present. All other fields are JSON attributes.
        """
        import h5py

        contents = io.BytesIO()  # HDF5 crashes the process if its own write meets a full disk
        with h5py.File(contents, "w") as file:
            for name in TENSORS:
                value = getattr(self, name)
                if value is not None:
                    compression = {"compression": "gzip", "compression_opts": 1}
                    options = compression if value.ndim else {}
                    file.create_dataset(name, data=value.numpy(), **options)
            file.attrs["format"] = FORMAT
            file.attrs["cost"] = json.dumps(asdict(self.cost), allow_nan=False)
            file.attrs["seconds"] = self.seconds
            file.attrs["interrupted"] = self.interrupted
            file.attrs["provenance"] = strict_json(self.provenance)
        with atomic_write(Path(path)) as temporary:
            temporary.write_bytes(contents.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a file that `save` wrote.

        Raises: InputError if the file is missing, damaged or not a result.
        """
        import h5py

        if not Path(path).is_file():
            raise InputError(f"result {path}: no such file")
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("format") != FORMAT:
                    raise InputError(f"result {path}: not a result of inverse")
                datasets = own_datasets(Path(path), file)
                if lost := set(file) - set(datasets):
                    raise ValueError(f"{min(lost)} is no dataset")
                arrays = {name: stored(Path(path), item) for name, item in datasets.items()}
                fields: dict[str, Any] = {
                    name: torch.from_numpy(array) if np.ndim(array) else torch.tensor(array)
                    for name, array in arrays.items()
                }
                cost = Cost(**json.loads(file.attrs["cost"]))
                fields |= {
                    "seconds": float(file.attrs["seconds"]),
                    "interrupted": bool(file.attrs["interrupted"]),
                }
                return cls(cost=cost, provenance=json.loads(file.attrs["provenance"]), **fields)
        except OSError as error:
            raise InputError(f"result {path}: not a readable HDF5 file ({error})") from error
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"result {path}: damaged, or written by another version ({error})"
            ) from error


def stored_provenance(path: str | Path) -> dict[str, Any] | None:
    """The provenance in a file that `Result.save` wrote; None for any other file.

    Raises: InputError for a damaged result.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                return None
            provenance = json.loads(file.attrs["provenance"])
    except OSError:
        return None
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"result {path}: damaged, or written by another version ({error})"
        ) from error
    return provenance if isinstance(provenance, dict) else {}
