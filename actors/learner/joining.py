"""How the ranks become one process group."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from actors.interfaces import use_nodes_interface
from actors.learner.settings import LearnerSettings
from actors.rendezvous import join_store, meeting


def join_ranks(settings: LearnerSettings, rank: int, ranks: int, store: Any, address: str, port: int) -> DeviceMesh:
    """Meet the other ranks at rank 0's store, which it has and others reach by address and port; the mesh of all.

    Raises:
        RendezvousFailed: naming who did not come.

    """
    use_nodes_interface()
    torch.set_num_threads(settings.threads)
    if settings.device == "cuda":
        torch.cuda.set_device(0)
    store = store or join_store(address, port, settings.rendezvous_timeout, f"learner rank {rank}")
    # Metrics are summed on the CPU wherever the model is, so a CUDA group speaks gloo as well.
    backend = "cpu:gloo,cuda:nccl" if settings.device == "cuda" else "gloo"
    where, seconds = f"{address}:{port}", settings.rendezvous_timeout
    with meeting(store, where, "learner rank", rank, ranks, seconds) as left:
        wait = timedelta(seconds=left)
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=wait)
        if settings.device == "cuda":
            # NCCL connects when it is first used.
            dist.all_reduce(torch.zeros(1, device="cuda"))
            torch.cuda.synchronize()
    _set_pg_timeout(timedelta(seconds=settings.timeout))
    return init_device_mesh(settings.device, (ranks,))
