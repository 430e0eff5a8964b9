"""The terminal: what a reader sees, on a terminal and in a log file."""

from __future__ import annotations

import io
import math

import pytest

from pipelines.reporting.console import Console, JudgmentExample, duration, percent


class Clock:
    """A clock the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain(width: int | None = None) -> tuple[Console, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    return Console(stream, clock=clock, width=width), stream, clock


def test_time_left_follows_the_pace_of_the_last_steps() -> None:
    console, _, clock = plain()
    with console.progress("rl", 100, done=10) as progress:
        assert progress.seconds_left() is None
        clock.now += 4
        progress.update(12, {})
        assert progress.seconds_left() == pytest.approx(2 * 88)
        for step in range(13, 53):
            clock.now += 1
            progress.update(step)
        # The slow start has left the window of 32 marks.
        assert progress.seconds_left() == pytest.approx(48)


def test_plain_lines_come_now_and_then_and_at_the_end() -> None:
    console, stream, clock = plain()
    with console.progress("rl", 200) as progress:
        for step in range(1, 201):
            clock.now += 0.5
            progress.update(step, {"reward": step / 200, "accuracy": 0.815, "tokens_per_second": 9012.4, "loss": 0.1})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 21
    assert lines[0] == "  rl 1/200  1m 40s left · reward +0.01 · accuracy 81.5% · 9,012 tokens/s"
    assert lines[1].split()[1] == "10/200"
    assert lines[-1] == "  rl 200/200  0s left · reward +1.00 · accuracy 81.5% · 9,012 tokens/s"


def test_metrics_stay_until_they_are_reported_again() -> None:
    console, _, clock = plain()
    with console.progress("rl", 10) as progress:
        clock.now += 1
        progress.update(1, {"reward": 0.5, "eval/accuracy": 0.8})
        clock.now += 1
        progress.update(2, {"reward": 0.6})
        assert progress.describe() == "8s left · reward +0.60 · held out 80.0%"


def test_supervised_stages_show_their_loss() -> None:
    console, _, clock = plain()
    with console.progress("distill", 4) as progress:
        clock.now += 65
        progress.update(1, {"loss": 1.23456})
        assert progress.describe() == "3m 15s left · loss 1.235"


def test_progress_on_a_terminal_is_drawn_in_place_and_fits_the_width() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(stream, clock=clock, width=60, force_terminal=True)
    with console.progress("rl", 3) as progress:
        for step in (1, 2, 3):
            clock.now += 1
            progress.update(step, {"reward": 0.5, "accuracy": 0.9, "eval/accuracy": 0.9, "tokens_per_second": 1e4})
    text = stream.getvalue()
    assert "\x1b[" in text
    assert "3/3" in text
    assert "reward +0.50" in text
    assert text.count("\n") <= 2


def test_results_table_has_the_rows_and_figures_of_the_summary() -> None:
    console, stream, _ = plain()
    console.results(
        {
            "before": {"accuracy": 0.0, "flip_rate": None, "parse_rate": 0.0, "mean_tokens": 64},
            "distill": {},
            "rl": {
                "accuracy": 0.9312,
                "consistent_accuracy": 0.91,
                "flip_rate": math.nan,
                "parse_rate": 0.999,
                "mean_tokens": 1234.56,
                "by_domain": {"Chat": {"accuracy": 0.95, "n": 360}, "Reasoning": {"accuracy": 0.9, "n": 240}},
            },
        }
    )
    rows = [line.split() for line in stream.getvalue().splitlines() if line.strip()]
    assert rows[0] == ["accuracy", "Chat", "Reasoning", "both", "orders", "right", "flips", "parsed", "tokens"]
    assert rows[2] == ["before", "0.0%", "-", "-", "-", "-", "0.0%", "64.0"]
    assert rows[3] == ["rl", "93.1%", "95.0%", "90.0%", "91.0%", "-", "99.9%", "1,234.6"]
    assert len(rows) == 4


def test_many_domains_are_limited_to_the_largest() -> None:
    console, stream, _ = plain()
    sizes = {"a": 1, "b": 50, "c": 40, "d": 30, "e": 20, "f": 2}
    console.results(
        {"rl": {"accuracy": 1.0, "by_domain": {name: {"accuracy": 1.0, "n": n} for name, n in sizes.items()}}}
    )
    assert stream.getvalue().split()[:6] == ["accuracy", "b", "c", "d", "e", "both"]


def test_text_of_a_model_cannot_steer_the_terminal_or_pass_as_markup() -> None:
    console, stream, _ = plain()
    hostile = "[bold]x[/bold] [[A]] [/red]\x1b[2J\x07\r\u202e end\ttab"
    console.examples([JudgmentExample("q\x1b]0;title\x07", "a", "b", hostile, label="A", verdict="A", title="[red]t")])
    console.note(hostile)
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\r" not in text
    assert "\u202e" not in text
    assert text.count("[bold]x[/bold] [[A]] [/red]") == 2
    assert "[red]t" in text


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("A", "verdict A, better is A: right"),
        ("B", "verdict B, better is A: wrong"),
        (None, "no verdict, better is A: wrong"),
    ],
)
def test_examples_say_whether_the_verdict_is_right(verdict: str | None, said: str) -> None:
    console, stream, _ = plain()
    console.examples([JudgmentExample("which", "one", "two", "trace", label="A", verdict=verdict)])  # type: ignore[arg-type]
    assert said in stream.getvalue()


def test_long_judgments_are_cut_and_the_cut_is_said() -> None:
    console, stream, _ = plain()
    console.examples([JudgmentExample("q", "a", "b", "x" * 5000, label="A", verdict="A")])
    assert stream.getvalue().count("x") == 2000
    assert "(3,000 more characters)" in stream.getvalue()


def test_a_stream_that_cannot_encode_gets_what_it_can() -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    console = Console(stream)
    console.header("rl", "32 prompts × 8 \ud800")
    console.examples([JudgmentExample("é", "a", "b", "→", label="B", verdict="A")])
    console.results({"rl": {"accuracy": 0.5}})
    stream.flush()
    assert b"32 prompts ? 8 ?" in buffer.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (3599.6, "1h 00m"), (7500, "2h 05m")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_percent() -> None:
    assert [percent(value) for value in (None, math.nan, 0.0, 0.98765)] == ["-", "-", "0.0%", "98.8%"]
