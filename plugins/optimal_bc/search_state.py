"""Losses, refined start and counters of a search for a start, and their checkpoint on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from inverse.errors import InputError
from inverse.io.files import atomic_write


@dataclass
class SearchState:
    """What a search has measured so far.

    Args:
        losses: of each candidate on each reference (K, R), NaN where it was not explored.
        refined: the start after the accepted moves (*shape); empty before refinement.
        refined_losses: its losses (R,).
        moves: moves tried.
        accepted: moves accepted.
    """

    losses: Tensor
    refined: Tensor
    refined_losses: Tensor
    moves: int = 0
    accepted: int = 0

    @classmethod
    def empty(cls, candidates: int, references: int) -> SearchState:
        """The state before the first solve."""
        losses = torch.full((candidates, references), torch.nan)
        return cls(losses, torch.empty(0), torch.empty(0))

    @property
    def solves(self) -> int:
        """Number of solves so far."""
        return int((~self.losses.isnan()).sum()) + self.moves * self.losses.shape[1]

    def save(self, path: Path, identity: str) -> None:
        """Write a checkpoint of a search with these settings."""
        from safetensors.torch import save

        tensors = {
            "losses": self.losses.contiguous(),
            "refined": self.refined.contiguous(),
            "refined_losses": self.refined_losses.contiguous(),
        }
        header = {"identity": identity, "moves": f"{self.moves} {self.accepted}"}
        with atomic_write(path) as temporary:
            temporary.write_bytes(save(tensors, header))

    @classmethod
    def load(cls, path: Path, identity: str) -> SearchState:
        """Read a checkpoint.

        Raises: InputError if the file is damaged or belongs to a search with other settings.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            moves, accepted = map(int, header["moves"].split())
            state = cls(
                tensors["losses"], tensors["refined"], tensors["refined_losses"], moves, accepted
            )
            if state.losses.ndim != 2 or not bool(torch.isfinite(state.refined).all()):
                raise ValueError("its arrays are not those of a search")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"fit-bc: checkpoint {path} is damaged ({error}); delete it to start again"
            ) from error
        if header.get("identity") != identity:
            raise InputError(
                f"fit-bc: checkpoint {path} belongs to other settings; "
                "use the same ones, another --out, or delete it"
            )
        return state
