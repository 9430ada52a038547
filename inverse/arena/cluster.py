"""The Ray executor: one worker per actor, on this machine or on a cluster.

A cell whose worker dies runs again on another worker.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from inverse.arena.bank import Observation
from inverse.arena.cell import Cell
from inverse.arena.worker import Outcome, Worker
from inverse.errors import InputError

TRIES = 3
"""Number of workers that may die on a cell before it is recorded as failed."""


class Ray:
    """Actors of a Ray cluster.

    Args:
        plugins: plug-in files that every worker loads; they must exist on every machine.
        address: "host:port" or "ray://host:port" of a cluster; "auto" for the cluster that this
            machine belongs to; None for a new one on this machine.
        workers: number of actors; None for as many as the cluster has processors, or as fit on
            its GPUs.
        gpus: share of a GPU that each worker gets.

    Raises: InputError if ray is not installed, the address does not answer, or no worker fits.
    """

    name = "ray"

    def __init__(
        self,
        plugins: tuple[str, ...] = (),
        address: str | None = None,
        workers: int | None = None,
        gpus: float = 0,
    ):
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "executor ray: the package ray is not installed; "
                "pip install 'inverse-posterior[ray]'"
            ) from error
        self.ray, self.running, self.plugins, self.gpus = ray, 0, plugins, gpus
        if address and address != "auto":
            _check_reachable(address)
        settings: dict[str, Any] = {}
        if address is None:
            settings = {"num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(
                address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                ignore_reinit_error=False,
                **settings,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"executor ray: no cluster at '{address}' ({str(error).strip().splitlines()[0]})"
            ) from error
        resources = ray.cluster_resources()
        available_gpus = resources.get("GPU", 0)
        room = int(available_gpus / gpus) if gpus else int(resources.get("CPU", 1))
        if not room:
            ray.shutdown()
            raise InputError(
                f"executor ray: the cluster has {available_gpus:g} GPUs, a cell needs {gpus:g}; "
                "set gpus in the suite, or start a node with a GPU"
            )
        self.actors = [self._actor() for _ in range(min(workers or room, room))]

    def _actor(self) -> Any:
        return self.ray.remote(num_cpus=1, num_gpus=self.gpus)(Worker).remote(
            self.plugins, torch.get_num_threads()
        )

    def call(self, method: str, *arguments: Any) -> Any:
        for left in reversed(range(TRIES)):
            try:
                return self.ray.get(getattr(self.actors[0], method).remote(*arguments))
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except self.ray.exceptions.RayActorError as error:
                self.actors[0] = self._actor()
                if not left:
                    reason = str(error).strip().splitlines()[0]
                    raise InputError(
                        f"executor ray: {TRIES} workers died counting the cost of a method "
                        f"({reason})"
                    ) from error

    def run(self, work: Iterable[tuple[Cell, Observation]]) -> Iterator[Outcome]:
        waiting, again = iter(work), list[tuple[Cell, Observation, int]]()
        idle, busy = list(self.actors), dict[Any, tuple[Any, Cell, Observation, int]]()
        while True:
            while idle and (
                item := again.pop() if again else next(((c, o, 1) for c, o in waiting), None)
            ):
                actor = idle.pop()
                cell, observation, tries = item
                busy[actor.compute.remote(cell, observation)] = (actor, cell, observation, tries)
            self.running = len(busy)
            if not busy:
                return
            (ready,), _ = self.ray.wait(list(busy), num_returns=1)
            actor, cell, observation, tries = busy.pop(ready)
            try:
                outcome = self.ray.get(ready)
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except self.ray.exceptions.RayActorError:
                self.actors[self.actors.index(actor)] = actor = self._actor()
                idle.append(actor)
                if tries < TRIES:
                    again.append((cell, observation, tries + 1))
                else:
                    yield Outcome(
                        cell.record(status="failed", reason=f"{TRIES} workers died over it")
                    )
                continue
            idle.append(actor)
            yield outcome

    def close(self) -> None:
        for actor in self.actors:
            self.ray.kill(actor)
        self.ray.shutdown()


def _check_reachable(address: str) -> None:
    """Try to connect, so that a wrong address fails within seconds.

    Raises: InputError if nothing answers, or the address is malformed.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(
            f"executor ray: the address must be host:port, ray://host:port or auto, got '{address}'"
        )
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"executor ray: nothing answers at '{address}' ({error}); "
            "`ray start --head` starts a cluster and prints its address"
        ) from error
