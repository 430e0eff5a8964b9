"""No key reaches a person or a log, in whatever form a message quotes it; what is no key is left as it is."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from urllib.parse import quote

import pytest

from actors.logs import LogFormatter
from actors.redaction import KeyRefused, read_key, redact, remember

KEY = "sk-Ab+/1\u00e9'x"


@pytest.mark.parametrize("variable", ["WANDB_API_KEY", "HF_TOKEN", "MY_SECRET", "DB_PASSWORD", "openai_api_key"])
@pytest.mark.parametrize(
    "form",
    [
        KEY,
        repr(KEY),
        ascii(KEY),
        repr(f"Bearer {KEY}".encode()),
        json.dumps(KEY),
        quote(KEY, safe=""),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(KEY.encode()).decode(),
    ],
)
def test_every_form_of_a_key_is_hidden(form: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, KEY)
    hidden = redact(f"before {form} after")
    assert hidden.startswith("before ")
    assert hidden.endswith(" after")
    assert "***" in hidden
    assert "Ab" not in hidden


def test_each_line_of_a_broken_key_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X_API_KEY", "sk-first-part\nsecond-part\n")
    assert redact("Illegal header value b'Bearer sk-first-part\\nsecond-part'") == "Illegal header value b'Bearer ***'"
    assert redact("at second-part") == "at ***"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("at http://me:pass@host/v1", "at http://***@host/v1"),
        ("at 'https://me:p@ss@host'", "at 'https://***@host'"),
        ("socks5://me@proxy:1", "socks5://***@proxy:1"),
        ("https://h/v1?api_key=abc&n=1&access-token=de#f", "https://h/v1?api_key=***&n=1&access-token=***#f"),
        ('{"a": "http://h", "b": "x@y"}', '{"a": "http://h", "b": "x@y"}'),
        ("keys: a=1, write me at x@y.z", "keys: a=1, write me at x@y.z"),
    ],
)
def test_secrets_in_addresses_are_hidden(text: str, hidden: str) -> None:
    assert redact(text) == hidden


def test_short_values_and_other_variables_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsehood")
    monkeypatch.setenv("HF_TOKEN", "")
    assert redact("none of it is a falsehood") == "none of it is a falsehood"


@pytest.mark.parametrize("around", ["{}", " {}\n", "\t{}\r\n"])
def test_white_space_around_a_key_is_no_part_of_it(around: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", around.format("sk-12345"))
    assert read_key("MINE") == "sk-12345"
    # Known from now on, though its name does not say that it is a key.
    monkeypatch.delenv("MINE")
    assert redact("sent sk-12345") == "sent ***"


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("sk-1\nabcdef", "character 5 of 11 is a white space"),
        ("sk-1 abcdef", "white space"),
        ("sk-1\x07abcdef", "character 5 of 11 is a control"),
        ("sk-1\x7fabcdef", "a control"),
        ("sk-\u00e9abcdef", "character 4 of 10 is a non-ASCII"),
        ("\u201csk-abcdef\u201d", "character 1 of 11 is a non-ASCII"),
        ("\ufeffsk-abcdef", "non-ASCII"),
        ("sk-\udce9abcdef", "non-ASCII"),
    ],
)
def test_a_key_that_no_header_carries_is_refused_by_its_variable(
    key: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(KeyRefused, match="environment variable MY_KEY") as caught:
        read_key("MY_KEY")
    assert what in str(caught.value)
    assert "abcdef" not in str(caught.value)


def test_no_variable_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    assert read_key("MY_KEY") == ""


def test_a_log_hides_keys_in_messages_and_tracebacks(tmp_path: Path) -> None:
    remember("correct-horse")
    logger = logging.Logger("x")
    handler = logging.FileHandler(tmp_path / "driver.log")
    handler.setFormatter(LogFormatter())
    logger.addHandler(handler)
    try:
        raise ValueError("sent correct-horse")
    except ValueError:
        logger.exception("with %s", "correct-horse")
    handler.close()
    text = (tmp_path / "driver.log").read_text()
    assert "ERROR x: with ***" in text
    assert "ValueError: sent ***" in text
    assert "correct-horse" not in text
