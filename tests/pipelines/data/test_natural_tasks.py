"""The built-in family in sentences: the terse items in other words, and what the teacher writes of them."""

from __future__ import annotations

import random
import re

import pytest
from configs import configured

from actors.messages import Side
from actors.verifier.trace import parse, read_verdict, well_formed
from pipelines.data.family import family_chain, family_checks, family_items
from pipelines.data.natural_tasks import in_sentences
from pipelines.data.schema import PreferencePair, read_pairs, write_pairs
from pipelines.data.tiny_tasks import (
    NUMBERS,
    POLITE_WORDS,
    PRIORITY,
    chat_item,
    generate_items,
    reasoning_item,
    satisfies,
    score,
)

SIDES: tuple[Side, Side] = ("A", "B")
NATURAL = "data.wording=natural"
CHECK = re.compile(r"(\w[\w ]+): A ([\w ,]+), (yes|no); B ([\w ,]+), (yes|no)\. (Both|Neither|Only A|Only B)\.")
WHO = {(True, True): "Both", (True, False): "Only A", (False, True): "Only B", (False, False): "Neither"}
FILLER = ("and", "the", "near", "with")


@pytest.fixture(scope="module", params=[2, 3])
def items(request: pytest.FixtureRequest) -> list[PreferencePair]:
    config = configured(NATURAL, f"data.criteria={request.param}")
    return family_items(5, {"distill": 600}, config.data)["distill"]


def told_of(pair: PreferencePair) -> list[str]:
    match = re.fullmatch(r"Write a (mail|poem|note)\. It should (.+)\.", pair.prompt[0].content)
    assert match
    assert match[1] == pair.metadata["topic"]
    return re.split(r", | and ", match[2])


def meets(sentence: str, told: str) -> bool:
    """A criterion of a sentence, worked out from its words as one reads them."""
    words = re.findall(r"[a-z]+", sentence.lower())
    if told == "be polite":
        return any(word in words for word in POLITE_WORDS)
    word = told.split()[-1]
    return {"mention": word in words, "start": words[0] == word, "end": words[-1] == word}[told.split()[0]]


@pytest.mark.slow
def test_wording_changes_no_item() -> None:
    """Set, order, better response and rule are those of the terse family of the same seed."""
    counts = {"rl": 80, "heldout": 40}
    terse = family_items(3, counts, configured().data)
    assert terse == generate_items(3, counts)
    natural = family_items(3, counts, configured(NATURAL).data)
    for name, pairs in terse.items():
        for one, other in zip(pairs, natural[name], strict=True):
            assert (other.id, other.source, other.domain) == (one.id, one.source, one.domain)
            assert other.metadata.items() >= one.metadata.items()
            assert other.metadata["terse"] == [one.chosen, one.rejected]


@pytest.mark.slow
def test_criteria_hold_of_the_sentences_as_of_the_terse_responses(items: list[PreferencePair]) -> None:
    for pair in items:
        if pair.domain == "Chat":
            for told, criterion in zip(told_of(pair), pair.metadata["criteria"], strict=True):
                assert told.split()[-1] in criterion
                for sentence, terse in zip((pair.chosen, pair.rejected), pair.metadata["terse"], strict=True):
                    assert meets(sentence, told) == satisfies(terse, criterion), (sentence, told)


def test_the_house_rule_decides(items: list[PreferencePair]) -> None:
    for pair in items:
        if pair.domain == "Chat":
            rule = PRIORITY[pair.metadata["topic"]]
            by_rule = sorted(pair.metadata["criteria"], key=lambda each: rule.index(each.split()[0]))
            assert pair.metadata["true_order"] == by_rule
            better, worse = pair.metadata["terse"]
            assert score(better, by_rule) > score(worse, by_rule)


@pytest.mark.slow
def test_teacher_writes_well_formed_judgments_that_end_right(items: list[PreferencePair]) -> None:
    for pair in items:
        for label in SIDES:
            chain = family_chain(pair, label, f"0/{pair.id}")
            judgment = parse(chain)
            assert well_formed(judgment), judgment.problems
            assert judgment.task_type == pair.domain
            assert read_verdict(chain, "strict").side == label
            checks = family_checks(pair, chain)
            assert checks["solution_correct"] is (True if pair.domain == "Reasoning" else None)


def test_teachers_checks_follow_from_the_sentences_and_decide(items: list[PreferencePair]) -> None:
    for pair in items:
        if pair.domain != "Chat":
            continue
        judgment = parse(family_chain(pair, "B", pair.id))
        assert judgment.evaluation
        differing = []
        checks = CHECK.findall(judgment.evaluation)
        assert len(checks) == len(pair.metadata["criteria"])
        for told, *found, who in checks:
            met = []
            for response, evidence, says in zip((pair.rejected, pair.chosen), found[::2], found[1::2], strict=True):
                met.append(meets(response, told.lower()))
                assert says == ("yes" if met[-1] else "no")
                words = [word for word in re.findall(r"[a-z]+", response.lower()) if word not in FILLER]
                if told[0] in "SE":
                    assert evidence == (f"starts with {words[0]}" if told[0] == "S" else f"ends with {words[-1]}")
                    continue
                read = evidence.removeprefix("has ").split(", ")
                assert read == words[: len(read)]
                sought = POLITE_WORDS if told == "Be polite" else (told.split()[-1],)
                assert [word in sought for word in read] == [False] * (len(read) - 1) + [met[-1]]
                assert met[-1] or read == words
            assert who == WHO[met[0], met[1]]
            differing += [who] if who.startswith("Only") else []
        # 4 > 2 + 1: the first criterion that tells the responses apart decides.
        assert differing[0] == "Only B"


@pytest.mark.slow
def test_teacher_knows_the_house_rule_in_part_only() -> None:
    config = configured(NATURAL)
    firsts = [
        family_checks(pair, family_chain(pair, "A", pair.id))["true_first_rubric"]
        for pair in family_items(0, {"distill": 2000}, config.data)["distill"]
        if pair.domain == "Chat"
    ]
    assert sum(map(bool, firsts)) / len(firsts) == pytest.approx(0.50, abs=0.03)


def test_sentences_by_hand() -> None:
    rng = random.Random(5)
    item = chat_item(rng, "c")
    item = type(item)(
        "c", "tiny", "Chat", item.prompt, "cat thanks sun", "dog dog rain star",
        {"kind": "chat", "topic": "mail", "criteria": ["start cat", "polite", "end sun"], "true_order": []},
    )  # fmt: skip
    said = in_sentences(item)
    expected = "Write a mail. It should start with the word cat, be polite and end with the word sun."
    assert said.prompt[0].content == expected
    assert (said.chosen, said.rejected) == ("Cat, thanks, sun.", "Dog and the dog near the rain with the star.")


@pytest.mark.parametrize("kind", ["sort", "reverse", "count"])
def test_solutions_want_work_and_answer(kind: str) -> None:
    pair = in_sentences(reasoning_item(random.Random(2), "r", kind))
    answer = pair.metadata["answer"]
    assert pair.chosen == f"The answer is {answer}."
    chain = family_chain(pair, "A", "0")
    assert family_checks(pair, chain) == {"solution_correct": True, "true_first_rubric": None}
    wrong = next(number for number in NUMBERS if number != answer)
    for text in ("", "<solution>", chain.replace(answer, wrong), chain.replace("<solution>", "<solution>So ")):
        assert family_checks(pair, text)["solution_correct"] is False


@pytest.mark.slow
def test_written_pairs_keep_their_wording(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = configured(NATURAL, "data.criteria=2", "data.reasoning_share=0.25")
    pairs = family_items(1, {"heldout": 40}, config.data)["heldout"]
    file = tmp_path_factory.mktemp("pairs") / "heldout.parquet"
    write_pairs(pairs, file)
    assert read_pairs(file) == pairs
    assert all(family_checks(pair, family_chain(pair, "A", "s")) for pair in read_pairs(file))


@pytest.mark.slow
def test_share_of_reasoning_is_a_setting() -> None:
    for share in (0.0, 0.25, 1.0):
        config = configured(NATURAL, f"data.reasoning_share={share}")
        pairs = family_items(0, {"rl": 400}, config.data)["rl"]
        assert sum(pair.domain == "Reasoning" for pair in pairs) / 400 == pytest.approx(share, abs=0.06)
