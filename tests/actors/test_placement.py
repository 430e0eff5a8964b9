"""Resource arithmetic: what a job asks for and what a cluster lacks."""

from __future__ import annotations

from actors.placement import ClusterShape, shortage

LAPTOP = ClusterShape(1, 1.0, 0, 2, 0.5, 0)


def test_bundles_put_rollout_workers_first() -> None:
    assert LAPTOP.bundles() == [{"CPU": 1.0}, {"CPU": 0.5}, {"CPU": 0.5}]


def test_gpu_bundles_hold_a_whole_engine_on_one_node() -> None:
    shape = ClusterShape(2, 4.0, 4, 8, 2.0, 1)
    assert shape.bundles() == [{"CPU": 4.0, "GPU": 4}] * 2 + [{"CPU": 2.0, "GPU": 1}] * 8


def test_shortage_names_each_resource_with_both_numbers() -> None:
    shape = ClusterShape(2, 4.0, 4, 8, 2.0, 1)
    assert shortage(shape.bundles(), {"CPU": 20.0}) == {"CPU": (24.0, 20.0), "GPU": (16.0, 0.0)}
    assert shortage(LAPTOP.bundles(), {"CPU": 2.0}) == {}
