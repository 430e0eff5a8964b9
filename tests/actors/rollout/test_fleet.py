"""How prompts are dealt out to workers."""

from __future__ import annotations

from actors.messages import Prompt
from actors.rollout.asked import Wanted
from actors.rollout.streams import shares_of


def prompt(name: str, *tokens: int) -> Prompt:
    """A prompt of these tokens."""
    return Prompt(name, name, "chosen_first", "A", "d", tokens)


def shares(prompts: list[Prompt], samples: int, in_flight: list[int]) -> list[list[str]]:
    """Uids of each worker's prompts."""
    wanted = [Wanted(prompt, tuple(range(samples))) for prompt in prompts]
    return [[item.prompt.uid for item in share] for share in shares_of(wanted, in_flight)]


def test_idle_workers_are_dealt_prompts_in_turn() -> None:
    dealt = shares([prompt(str(number), number) for number in range(5)], 8, [0, 0])
    assert dealt == [["0", "2", "4"], ["1", "3"]]


def test_who_owes_fewest_traces_gets_the_next_prompt() -> None:
    dealt = shares([prompt(str(number), number) for number in range(5)], 4, [20, 3, 9])
    assert dealt == [[], ["0", "1", "3"], ["2", "4"]]


def test_equal_prompts_stay_together_and_count_as_what_they_are() -> None:
    prompts = [prompt(f"{number}/{vote}", number) for number in range(4) for vote in range(3)]
    assert shares(prompts, 1, [0, 0, 2]) == [
        ["0/0", "0/1", "0/2", "3/0", "3/1", "3/2"],
        ["1/0", "1/1", "1/2"],
        ["2/0", "2/1", "2/2"],
    ]
