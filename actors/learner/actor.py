"""One learner rank: a Ray actor around a sharded model. It moves messages; the mathematics is in ``steps.py``."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from actors import memory
from actors.collector import collect_as_usual, collect_seldom
from actors.learner.progress import Progress, at_work
from actors.learner.settings import LearnerSettings, ModelError, OptimizerSettings, PolicySettings
from actors.liveness import Beat
from actors.logs import redirect_output
from actors.messages import ChannelTerms, MemoryUse, WeightUpdate
from actors.processes import Processes, of_this_actor
from actors.weights.publisher import Publisher

if TYPE_CHECKING:
    from actors.learner.steps import MicroBatches


BESIDE = "beside"
"""Ray's concurrency group of the calls that are answered while a rank computes."""


class Learner:
    """One rank. Made a Ray actor by the session, which knows the resources."""

    def __init__(self, rank: int, world_size: int, settings: LearnerSettings, log_path: str | None = None) -> None:
        if log_path is not None:
            redirect_output(log_path)
        collect_seldom()
        self.rank = rank
        self.progress = Progress()
        self._world_size = world_size
        self._settings = settings
        self._store: Any = None
        self._publisher = Publisher(settings.device, settings.rendezvous_timeout)
        self._trainer: Any = None
        self._source = ""
        self._holder: Any = None
        """Has the memory for copies of what is trained; None: there are none."""
        self._saving_group: Any = None
        self._saving: Any = None
        """The checkpoint that is being written."""

    def beat(self) -> Beat:
        """How far this rank is, and what it is at; called in a thread of its own (:data:`BESIDE`)."""
        return self.progress.beat()

    def processes(self) -> Processes:
        """This rank's process; called like :meth:`beat`."""
        return of_this_actor()

    def rendezvous(self) -> tuple[str, int] | None:
        """Be ready to meet the other ranks; rank 0 opens the store for it and returns its address and port."""
        from actors.rendezvous import open_store

        if self.rank != 0:
            return None
        self._store, address, port = open_store(self._settings.rendezvous_timeout)
        return address, port

    def join(self, address: str, port: int) -> None:
        """Meet the other ranks at rank 0's store.

        Raises:
            RendezvousFailed: naming who did not come.

        """
        from actors.learner.joining import join_ranks

        self._mesh = join_ranks(self._settings, self.rank, self._world_size, self._store, address, port)

    @at_work
    def load(self, model: str, reference: str | None, optimizer: OptimizerSettings) -> int:
        """Load and shard the policy, and the frozen reference where one is given; returns the policy's parameters.

        With adapters the reference is the policy without them, and takes no memory of its own. What was loaded before
        is freed first.

        Raises:
            ModelError: see :func:`actors.learner.model.load_judge`; or a reference other than the model that adapters
                are added to.

        """
        import gc

        import torch

        from actors.learner.model import load_judge
        from actors.learner.optimizers import build_optimizers
        from actors.learner.steps import Trainer

        settings, copier, self._trainer = self._settings, self._copier(), None
        attention = settings.attention if settings.packing else None
        if settings.lora is not None and reference not in (None, model):
            raise ModelError(
                f"with learner.lora the reference is the policy's own base {model!r}, not {reference!r}: "
                "start from the reference, or train without adapters (learner.lora.rank=0)"
            )
        gc.collect()
        if settings.device == "cuda":
            torch.cuda.empty_cache()
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(settings.seed * 1000 + self.rank)
        common: dict[str, Any] = {
            "dtype": settings.dtype,
            "reshard_after_forward": settings.reshard_after_forward,
            "attention": attention,
        }
        judge = load_judge(
            model,
            self._mesh,
            **common,
            activation_checkpointing=settings.activation_checkpointing,
            offload=settings.offload == "all",
            lora=settings.lora,
            seed=settings.seed,
        )
        frozen = None
        if reference and settings.lora is not None:
            frozen = judge
        elif reference:
            frozen = load_judge(reference, self._mesh, **common, trainable=False, offload=settings.offload != "none")
        self._source = model
        self._trainer = Trainer(
            judge,
            frozen,
            build_optimizers(judge, optimizer),
            optimizer,
            self._mesh.get_group(),
            settings.device,
            accumulate=not settings.reshard_after_forward,
            moved=self.progress.moved,
            attention=attention,
            copier=copier,
        )
        collect_as_usual()
        return sum(parameter.numel() for parameter in judge.parameters())

    @at_work
    def supervised_step(self, micro_batches: MicroBatches, global_tokens: int) -> dict[str, float]:
        """See :func:`actors.learner.steps.supervised_step`."""
        from actors.learner.steps import supervised_step

        return supervised_step(self._trainer, micro_batches, global_tokens)

    @at_work
    def add_policy_gradients(self, micro_batches: MicroBatches, settings: PolicySettings) -> None:
        """See :func:`actors.learner.steps.add_policy_gradients`."""
        from actors.learner.steps import add_policy_gradients

        add_policy_gradients(self._trainer, micro_batches, settings)

    @at_work
    def policy_step(
        self, micro_batches: MicroBatches, settings: PolicySettings, global_tokens: int, global_sequences: int
    ) -> dict[str, float]:
        """See :func:`actors.learner.steps.policy_step`."""
        from actors.learner.steps import policy_step

        return policy_step(self._trainer, micro_batches, settings, global_tokens, global_sequences)

    @at_work
    def logprobs(self, micro_batches: MicroBatches, temperature: float) -> list[list[np.ndarray]]:
        """See :func:`actors.learner.steps.completion_logprobs`."""
        from actors.learner.steps import completion_logprobs

        return completion_logprobs(self._trainer, micro_batches, temperature)

    @at_work
    def kl_to_reference(
        self, micro_batches: MicroBatches, estimator: str, temperature: float
    ) -> list[list[np.ndarray]]:
        """See :func:`actors.learner.steps.kl_to_reference`."""
        from actors.learner.steps import kl_to_reference

        return kl_to_reference(self._trainer, micro_batches, estimator, temperature)

    @at_work
    def publish(self, version: int, directory: str | None, dtype: str, sends: bool = False) -> WeightUpdate | None:
        """Gather all weights and write them into ``directory``; rank 0 answers, the others take part.

        Without a directory rank 0 holds them until the next, for :meth:`send`; ``sends``: and broadcasts them to the
        engines that have joined while it gathers. An error of that comes when it holds all of them.
        """
        import torch

        from actors.learner.model import full_state

        tensors = full_state(self._trainer.judge, getattr(torch, dtype))
        if self.rank != 0:
            for _ in tensors:
                pass
            return None
        return self._publisher.publish(tensors, version, directory, sends)

    def published(self) -> WeightUpdate:
        """What rank 0 holds for :meth:`send`."""
        return self._publisher.held

    @at_work
    def leave_device(self) -> MemoryUse:
        """Let engines have the device; what is kept goes into the machine's memory, where on CPU it is already."""
        device = self._settings.device
        most = memory.highest(device)
        if self._trainer is not None and device != "cpu":
            self._trainer.leave_device()
        return MemoryUse(most, memory.in_use(device))

    @at_work
    def take_device(self) -> None:
        """Have the device again, with what was kept."""
        if self._trainer is not None:
            self._trainer.take_device()

    def open_channel(self) -> tuple[str, int]:
        """Open the store at which the members of a weight channel meet; returns its address and port."""
        return self._publisher.open()

    def join_channel(self, terms: ChannelTerms) -> None:
        """Be rank 0 of the weight channel that this rank opened."""
        self._publisher.join(terms)

    @at_work
    def send(self) -> None:
        """Broadcast what was published last to the engines that have joined, which have been told to receive it."""
        self._publisher.send()

    def remove_written(self, path: str) -> None:
        """Remove a published file, which every engine has loaded: it is memory of this rank's node."""
        from actors.weights.send import remove_written

        remove_written(path)

    @at_work
    def save(self, directory: str, state: dict[str, Any], in_background: bool = False) -> None:
        """Write a checkpoint of model, optimisers, schedule and random states, with ``state`` of the stage.

        ``in_background``: from a copy, while other calls are worked on; see :meth:`finish_saving`.
        """
        import torch.distributed as dist

        from actors.learner.checkpoint import begin_checkpoint, save_checkpoint

        self.finish_saving()
        trainer = self._trainer
        extra = {"stage": state, "optimizer_step": trainer.step, "skipped": trainer.skipped}
        if not in_background:
            save_checkpoint(directory, trainer.judge, trainer.optimizers, extra)
            return
        if self._saving_group is None:
            wait = timedelta(seconds=self._settings.timeout)
            self._saving_group = dist.new_group(backend="gloo", timeout=wait)
        self._saving = begin_checkpoint(directory, trainer.judge, trainer.optimizers, extra, self._saving_group)

    def finish_saving(self) -> None:
        """Wait until the checkpoint that is being written, if one is, is whole; its error is raised here."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    @at_work
    def restore(self, directory: str) -> dict[str, Any]:
        """Continue from a checkpoint; returns the stage's state that was saved with it."""
        from actors.learner.checkpoint import load_checkpoint

        self.finish_saving()
        trainer = self._trainer
        trainer.copier = self._copier()
        extra = load_checkpoint(directory, trainer.judge, trainer.optimizers)
        trainer.step, trainer.skipped = extra["optimizer_step"], extra["skipped"]
        return extra["stage"]

    def keep_copies(self, holder: Any, elsewhere: bool) -> None:
        """From the next loading on, copy what is trained after every optimiser step; this Ray actor has the memory, and
        sends the copies to another node where they are kept ``elsewhere`` as well."""
        from actors.learner.copies import RemoteHolder

        self._holder = RemoteHolder(holder, elsewhere)

    def copies(self) -> tuple[int, str]:
        """Optimiser steps that what is trained now has had, and why no copies are made; empty: they are."""
        copier = self._trainer.copier
        return self._trainer.step, copier.refusal if copier is not None else ""

    @at_work
    def restore_copy(self, step: int) -> None:
        """Continue from the copy that another process in this place made after so many optimiser steps.

        Raises:
            NoCopies: there is none.

        """
        self._trainer.copier.restore(self._trainer, step)

    def _copier(self) -> Any:
        """What copies the next trainer's state; that of before is ended."""
        from actors.learner.copies import Copier

        if self._trainer is not None and self._trainer.copier is not None:
            self._trainer.copier.close()
        return None if self._holder is None else Copier(self._holder)

    @at_work
    def export(self, directory: str) -> None:
        """Write the model in Hugging Face format; rank 0 writes, the others take part."""
        from actors.learner.model import export

        export(self._trainer.judge, self._source, directory, self.rank)
