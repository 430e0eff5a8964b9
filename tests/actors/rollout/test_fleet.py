"""How prompts are dealt out to workers."""

from __future__ import annotations

from actors.messages import Prompt
from actors.rollout.fleet import _shares


def prompt(name: str, *tokens: int) -> Prompt:
    """A prompt of these tokens."""
    return Prompt(name, name, "chosen_first", "A", "d", tokens)


def names(shares: list[list[Prompt]]) -> list[list[str]]:
    """Uids of each worker's prompts."""
    return [[item.uid for item in share] for share in shares]


def test_idle_workers_are_dealt_prompts_in_turn() -> None:
    shares = _shares([prompt(str(number), number) for number in range(5)], 8, [0, 0])
    assert names(shares) == [["0", "2", "4"], ["1", "3"]]


def test_who_owes_fewest_traces_gets_the_next_prompt() -> None:
    shares = _shares([prompt(str(number), number) for number in range(5)], 4, [20, 3, 9])
    assert names(shares) == [[], ["0", "1", "3"], ["2", "4"]]


def test_equal_prompts_stay_together_and_count_as_what_they_are() -> None:
    prompts = [prompt(f"{number}/{vote}", number) for number in range(4) for vote in range(3)]
    assert names(_shares(prompts, 1, [0, 0, 2])) == [
        ["0/0", "0/1", "0/2", "3/0", "3/1", "3/2"],
        ["1/0", "1/1", "1/2"],
        ["2/0", "2/1", "2/2"],
    ]
