"""How prompts are dealt out to workers."""

from __future__ import annotations

from actors.messages import Prompt
from actors.rollout.fleet import _shares


def prompt(name: str, *tokens: int) -> Prompt:
    """A prompt of these tokens."""
    return Prompt(name, name, "chosen_first", "A", "d", tokens)


def test_different_prompts_are_dealt_in_turn() -> None:
    shares = _shares([prompt(str(number), number) for number in range(5)], 2, 0)
    assert [[item.uid for item in share] for share in shares] == [["0", "2", "4"], ["1", "3"]]


def test_dealing_goes_on_where_the_last_call_ended() -> None:
    shares = _shares([prompt(str(number), number) for number in range(3)], 2, 1)
    assert [[item.uid for item in share] for share in shares] == [["1"], ["0", "2"]]


def test_equal_prompts_stay_together() -> None:
    prompts = [prompt(f"{number}/{vote}", number) for number in range(4) for vote in range(3)]
    shares = _shares(prompts, 3, 0)
    assert [[item.uid for item in share] for share in shares] == [
        ["0/0", "0/1", "0/2", "3/0", "3/1", "3/2"],
        ["1/0", "1/1", "1/2"],
        ["2/0", "2/1", "2/2"],
    ]
