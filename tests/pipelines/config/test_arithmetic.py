"""A type that the processor has no instructions for is not chosen for a laptop, and whoever sets it is told."""

from __future__ import annotations

import pytest
from configs import configured

from pipelines.config import arithmetic
from pipelines.config.arithmetic import computes_in, cpu_dtype, slow_dtype
from pipelines.config.compose import load_config


def processor(monkeypatch: pytest.MonkeyPatch, *types: str) -> None:
    monkeypatch.setattr(arithmetic, "computes_in", lambda dtype: dtype in types)


def test_every_processor_computes_in_float32() -> None:
    assert computes_in("float32")


def test_what_is_said_of_bfloat16_is_what_torch_says() -> None:
    import torch

    flags = torch.cpu.get_capabilities()
    if flags.get("avx512_bf16") or flags.get("amx_bf16"):
        assert computes_in("bfloat16")
    if flags.get("architecture") == "x86_64" and not flags.get("avx512_f") and not flags.get("avx_vnni"):
        assert not computes_in("bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize(("types", "expected"), [(("float32", "bfloat16"), "bfloat16"), (("float32",), "float32")])
def test_the_recipe_for_laptops_takes_what_the_processor_has(
    monkeypatch: pytest.MonkeyPatch, types: tuple[str, ...], expected: str
) -> None:
    processor(monkeypatch, *types)
    config = load_config(["recipe=smollm2_135m"])
    assert (config.learner.dtype, config.rollout.dtype) == (expected, expected)
    assert cpu_dtype("float32") == "float32"


def test_what_is_set_is_kept_and_warned_of_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "float32")
    config = configured("learner.dtype=bfloat16")
    assert config.learner.dtype == "bfloat16"
    assert slow_dtype("rollout.dtype", config.rollout) is None
    said = slow_dtype("learner.dtype", config.learner)
    assert said is not None
    assert said.startswith("learner.dtype=bfloat16: ")
    assert said.endswith("set learner.dtype=float32")
