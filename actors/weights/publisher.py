"""Rank 0's part in a publication: it has all weights as they are gathered, and gives them to the engines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from actors.messages import ChannelTerms, WeightUpdate

if TYPE_CHECKING:
    import torch

    from actors.weights.send import Gathered


class Publisher:
    """Writes weights into a file, or holds them and sends them to the engines that have joined its channel."""

    def __init__(self, device: str, rendezvous_timeout: float) -> None:
        """``device``: what the channel sends from. ``rendezvous_timeout``: how long its store waits for others."""
        self._device = device
        self._rendezvous_timeout = rendezvous_timeout
        self._store: Any = None
        self._channel: Any = None
        self._held: Gathered | None = None

    def open(self) -> tuple[str, int]:
        """Open the store at which the members of a channel meet; returns its address and port."""
        from actors.rendezvous import open_store

        self._store, address, port = open_store(self._rendezvous_timeout)
        return address, port

    def join(self, terms: ChannelTerms) -> None:
        """Be rank 0 of the channel that was opened."""
        from actors.weights.channel import WeightChannel

        self._channel = WeightChannel(self._store, 0, self._device, terms)

    def publish(
        self, tensors: Iterable[tuple[str, torch.Tensor]], version: int, directory: str | None, sends: bool
    ) -> WeightUpdate:
        """Write ``tensors`` into ``directory``; without one, hold them until the next.

        ``sends``: and broadcast them while they come. An error of that is raised when all of them are held.
        """
        from actors.weights.send import gathered, write_update

        self._held = None
        if directory is not None:
            return write_update(tensors, version, directory)
        self._held, failure = gathered(tensors, version, self._channel.send if sends else None)
        if failure is not None:
            raise failure
        return self._held.update

    @property
    def held(self) -> WeightUpdate:
        """What was published last, without a file."""
        assert self._held is not None
        return self._held.update

    def send(self) -> None:
        """Broadcast what is held."""
        self._channel.send(self._held)
