"""The lint that finds chains which give away that their writer was told the verdict.

A chain is learned by a model that is told nothing. One that says "as the notes state" would teach it to justify a
verdict it does not have, so such chains are refused: by a list of phrases, and by repeated wording of the hint itself.
What the judged texts say themselves is never held against a chain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipelines.chain_generation.hints import Hint
from pipelines.config import ConfigError

_TOLD = r"(?:told|informed|instructed|advised|given to understand|let known)"
_GIVEN = r"(?:given|provided|supplied|known|stated|told|designated|specified|predetermined)"
_RIGHT = r"(?:right|correct|true|expected|intended|required|gold(?:en)?|reference|ground[- ]truth|target)"
_VERDICT = r"(?:verdict|judge?ment)"
_SIDE = r"(?:(?:chatbot|answer|response|option|side) [ab]\b|the (?:better|stronger|preferred) (?:answer|response|one))"
_CHOOSE = r"(?:choose|pick|prefer|favou?r|select|conclude|justify)"
_NOTES = r"(?:the|these|those|your) (hints?|notes?)\b"
_ATTEMPT = r"(?:attempt|try|judge?ment|verdict|assessment)"
PHRASES: tuple[str, ...] = (
    rf"{_RIGHT} {_VERDICT}",
    rf"{_GIVEN} {_VERDICT}",
    rf"{_VERDICT} (?:is|was|has been|has already been) (?:already )?{_GIVEN}",
    rf"to (?:justify|arrive at|reach|support) (?:the|this|that) {_VERDICT}",
    rf"(?:fresh|revised|corrected) {_VERDICT}",
    rf"(?:i (?:was|am|have been|had been)|i've been) {_TOLD}",
    rf"(?:(?:we|you) (?:were|are|have been|had been)|we've been) {_TOLD} (?:that )?{_SIDE}",
    rf"(?:knowing|know|since we know|given) that {_SIDE} (?:is|was|gave|has|should)",
    rf"already (?:been )?(?:established|known|decided|determined) that {_SIDE}",
    rf"(?:i|we) (?:was|were|am|are|have been) (?:supposed|expected|required|meant|instructed|asked) to {_CHOOSE}",
    rf"(?:according to|based on|following|per|as (?:stated|mentioned|noted) in) {_NOTES}",
    rf"{_NOTES} (?:say|state|tell|indicate|suggest|mention|confirm|reveal)s?\b",
    rf"my (?:earlier|previous|prior|first|initial|original) {_ATTEMPT}",
    r"my (?:earlier|previous|prior|first|initial|original) (?:reasoning|analysis|evaluation)",
    rf"(?:the|an|this|that) (?:earlier|previous|prior|flawed) {_ATTEMPT}",
    rf"(?:somebody|someone) else's {_ATTEMPT}",
    r"(?:upon|on|after) (?:re-?evaluation|re-?examination|re-?assessment|re-?evaluating|re-?examining|re-?assessing)",
    r"i (?:previously|initially|originally|first) (?:judged|chose|picked|preferred|favou?red|concluded)",
)
"""Regular expressions for lower-case text with single blanks, matched at the beginning of a word. Narrow on purpose:
"we are told that the train leaves at five" and "the flawed reasoning of Chatbot A" are how judges write. Words in a
group, such as "notes", betray nothing where the judged texts speak of them too."""

RATED_ALONE: tuple[str, ...] = (
    r"the other (?:answer|response|reply|chatbot|one)\b",
    r"(?:compared (?:to|with)|better than|worse than) (?:the other|another)\b",
)
"""Besides those, where one response is rated, and only the hint spoke of another."""


class BetrayalLint:
    """Finds what a chain of the second pass gives away. Built once for a template and a list of phrases."""

    def __init__(self, hint: Hint, words_in_a_row: int, phrases: Sequence[str] = ()) -> None:
        """``phrases`` are regular expressions beyond :data:`PHRASES`.

        Raises:
            ConfigError: one of them is not a regular expression.

        """
        for phrase in phrases:
            try:
                re.compile(phrase)
            except re.error as error:
                raise ConfigError(f"chains.betrayals: {phrase!r} is not a regular expression: {error}") from error
        # After a letter a phrase would be the end of a longer word.
        self._phrases = [re.compile(rf"(?<!\w)(?:{phrase})") for phrase in (*PHRASES, *phrases)]
        self._size = words_in_a_row
        self._runs = _runs(_words(hint.own_text()), words_in_a_row)
        self._tells = hint.tells

    def find(self, chain: str, prompt: Sequence[Mapping[str, str]]) -> str | None:
        """The first words that betray the hint, or None. Words that stand in ``prompt`` too betray nothing."""
        if not self._tells:
            return None
        shown = " ".join(message["content"] for message in prompt)
        text, known = _plain(chain), _plain(shown)
        for phrase in self._phrases:
            # Each wording once: where it is repeated, it is as much or as little in the prompt.
            wordings: dict[str, str] = {}
            for match in phrase.finditer(text):
                wordings.setdefault(match[match.lastindex or 0], match[0])
            for wording, betrayal in wordings.items():
                if wording not in known:
                    return betrayal
        prompt_runs = _runs(_words(shown), self._size)
        words = _words(chain)
        for start in range(len(words) - self._size + 1):
            run = tuple(words[start : start + self._size])
            if run in self._runs and run not in prompt_runs:
                return " ".join(run)
        return None


def _plain(text: str) -> str:
    """Lower case, tags removed, typographic apostrophes made plain, single blanks."""
    return " ".join(re.sub(r"</?\w+>", " ", text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").lower().split())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", _plain(text))


def _runs(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}
