"""Attention of packed rows: the block mask against a plain one, both kinds against plain attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention

from actors.learner import attention
from actors.learner.attention import flex_packed_attention, layout, packed_attention
from actors.learner.packing import Segment

MODULE = torch.nn.Module()


def row(seed: int, groups: int, longest: int) -> tuple[list[Segment], int]:
    """Segments of a row, and its length: roots, some with one to five branches."""
    rng = np.random.default_rng(seed)
    segments: list[Segment] = []
    end = 0
    for _ in range(groups):
        root = Segment(end, int(rng.integers(1, longest)))
        segments.append(root)
        end += root.length
        for _ in range(int(rng.integers(0, 6))):
            segments.append(Segment(end, int(rng.integers(1, longest)), root.start, root.length))
            end += segments[-1].length
    return segments, end


def plain_mask(segments: list[Segment], size: int) -> torch.Tensor:
    """[T, T] bool, straight from what a segment is."""
    seen = np.zeros((size, size), bool)
    for segment in segments:
        own = slice(segment.start, segment.start + segment.length)
        seen[own, own] = np.tril(np.ones((segment.length, segment.length), bool))
        seen[own, segment.root : segment.root + segment.root_length] = True
    return torch.from_numpy(seen)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "groups", "longest"), [(0, 1, 3), (1, 4, 40), (2, 6, 128), (3, 3, 400), (4, 2, 700)])
def test_blocks_and_places_are_those_of_the_plain_mask(seed: int, groups: int, longest: int) -> None:
    segments, size = row(seed, groups, longest)
    mask = layout("flex", segments, size, "cpu")
    assert isinstance(mask, BlockMask)
    plain = plain_mask(segments, size)
    places = torch.arange(size)
    torch.testing.assert_close(mask.mask_mod(None, None, places[:, None], places[None]), plain)

    blocks = -(-size // 128)
    padded = torch.zeros(blocks * 128, blocks * 128, dtype=torch.bool)
    padded[:size, :size] = plain
    counts = padded.view(blocks, 128, blocks, 128).sum((1, 3))

    def chosen(number: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        made = torch.zeros(blocks, blocks, dtype=torch.bool)
        for block in range(blocks):
            made[block, indices[0, 0, block, : number[0, 0, block]].long()] = True
        return made

    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_indices is not None
    full, part = chosen(mask.full_kv_num_blocks, mask.full_kv_indices), chosen(mask.kv_num_blocks, mask.kv_indices)
    assert torch.equal(full | part, counts > 0)
    assert not (full & part).any()
    assert (counts[full] == 128 * 128).all()
    # Only a block in which a root ends and its branch begins may be compared in vain.
    assert int(((counts == 128 * 128) & part).sum()) <= 6 * groups
    assert full.any() or longest < 300


def test_the_block_mask_of_a_whole_micro_batch_is_small() -> None:
    segments, size = row(5, 12, 1100)
    assert size > 16384
    mask = layout("flex", segments, size, "cpu")
    assert isinstance(mask, BlockMask)
    held = [tensor for tensor in mask.as_tuple() if isinstance(tensor, torch.Tensor)]
    assert max(tensor.numel() for tensor in held) == (-(-size // 128)) ** 2
    # Of the blocks on and below the diagonal, most are skipped.
    assert mask.sparsity() > 80


def states(size: int, heads: int, shared: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    return [torch.randn(1, count, size, width, generator=generator) for count in (heads, shared, shared)]


def plain_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[1, T, heads, D]"""
    repeats = query.shape[1] // key.shape[1]
    keys, values = (each.repeat_interleave(repeats, 1) for each in (key, value))
    return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3).transpose(1, 2)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flex attention as torch computes it uncompiled, which has gradients on CPU, though torch refuses them there."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(attention, "_flex", lambda: torch_flex.flex_attention)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("heads", "shared", "width"), [(7, 1, 24), (4, 4, 8), (6, 2, 16)])
def test_both_kinds_and_their_gradients_equal_plain_attention(heads: int, shared: int, width: int) -> None:
    segments, size = row(6, 4, 40)
    upstream = torch.randn(1, size, heads, width, generator=torch.Generator().manual_seed(1))

    def computed(attend: Any, given: Any) -> list[torch.Tensor]:
        leaves = [tensor.requires_grad_() for tensor in states(size, heads, shared, width)]
        output = attend(*leaves, given)
        (output * upstream).sum().backward()
        return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    exact = computed(plain_attention, plain_mask(segments, size))
    for kind, function in (("sdpa", packed_attention), ("flex", flex_packed_attention)):

        def attend(query: Any, key: Any, value: Any, given: Any, function: Any = function) -> Any:
            return function(MODULE, query, key, value, None, scaling=0.3, layout=given)[0]

        ours = computed(attend, layout(kind, segments, size, "cpu"))
        assert len(ours) == len(exact) == 4
        for mine, theirs in zip(ours, exact, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_compiled_kernel_equals_plain_attention_at_any_length() -> None:
    """Torch compiles the forward for CPU, and one compilation serves rows of several blocks whatever their length."""
    torch._dynamo.reset()
    attention._flex.cache_clear()
    for seed in (7, 8, 9, 10):
        segments, size = row(seed, 5, 90 + seed)
        with torch.no_grad():
            given = states(size, 7, 1, 24)
            ours, _ = flex_packed_attention(
                MODULE, *given, None, scaling=0.3, layout=layout("flex", segments, size, "cpu")
            )
            torch.testing.assert_close(ours, plain_attention(*given, plain_mask(segments, size)), atol=1e-5, rtol=1e-5)
        if seed == 8:
            torch.compiler.set_stance("fail_on_recompile")
    torch.compiler.set_stance("default")


def test_another_mask_or_dropout_is_refused() -> None:
    segments, size = row(6, 2, 10)
    given = states(size, 2, 1, 16)
    for function in (packed_attention, flex_packed_attention):
        with pytest.raises(ValueError, match="mask"):
            function(MODULE, *given, None)
    with pytest.raises(ValueError, match="no dropout"):
        flex_packed_attention(MODULE, *given, None, dropout=0.1, layout=layout("flex", segments, size, "cpu"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="attention 'varlen' is not one of flex, sdpa"):
        layout("varlen", segments, size, "cpu")
