"""What is typed for a text setting is what the setting holds; what cannot be read is answered with what to type."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.config import ConfigError
from pipelines.config.compose import load_config
from pipelines.config.overrides import arguments_of, as_typed

ROOT = Path(__file__).resolve().parents[3]
ODD = [
    "2025_11_25",
    "1e3",
    "true",
    "null ",
    "0x10",
    "1:30",
    "no",
    "a=b",
    "a[0]",
    "a,b",
    "f(x)",
    "~/x",
    "x#y",
    "ünï",
    "it's",
]


@pytest.mark.slow
@pytest.mark.parametrize("text", [*ODD, 'say "x"', "back\\slash\\", "x y", "{a", "https://host/p?q=1&r=a,b"])
def test_text_settings_keep_what_was_typed(text: str) -> None:
    run = text.replace("/", "-")
    config = load_config([f"run={run}", f"data.train={text}", f"model.path={text}"])
    assert (config.run, config.data.train, config.model.path) == (run, text, text)


@pytest.mark.slow
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="$"), min_size=1))
@example("'")
@example('"')
@example("\\")
@example("\\'")
def test_any_text_survives(text: str) -> None:
    if text == "null" or (len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]):
        return  # Null where the setting may be empty, and quotes of the user's own.
    assert OverridesParser.create().parse_override(as_typed(f"data.train={text}")).value() == text


@pytest.mark.parametrize("setting", ["run", "seed", "rl.steps", "data.train", "evaluate.benchmarks"])
def test_a_value_that_is_still_to_be_given_is_asked_for(setting: str) -> None:
    """Hydra's ``???`` would leave the default in its place."""
    with pytest.raises(ConfigError, match=rf"^{setting}(\[0\])?=\?\?\? stands for a value that is still to be given"):
        load_config([f"{setting}=???"])


def test_text_in_lists_and_tables_too() -> None:
    config = load_config(
        [
            "evaluate.benchmarks=[1e3, x[1].jsonl,'a, b',it's]",
            "evaluate.paths.rmb=/a=b(c)",
            "data.mix.sources.mine.path=2025_11_25",
            "data.mix.sources.mine.columns={chosen:true,rejected:best.text}",
        ]
    )
    assert config.evaluate.benchmarks == ["1e3", "x[1].jsonl", "a, b", "it's"]
    assert config.evaluate.paths == {"rmb": "/a=b(c)"}
    assert config.data.mix.sources["mine"].path == "2025_11_25"
    assert config.data.mix.sources["mine"].columns == {"chosen": "true", "rejected": "best.text"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "benchmarks"),
    [
        ("rmb", ["rmb"]),
        ("1e3", ["1e3"]),
        ("rmb,judgebench", ["rmb", "judgebench"]),
        ("'a, b.jsonl', c(1).jsonl", ["a, b.jsonl", "c(1).jsonl"]),
        ("[rmb]", ["rmb"]),
        ("[]", []),
    ],
)
def test_a_list_needs_no_brackets(typed: str, benchmarks: list[str]) -> None:
    assert load_config([f"evaluate.benchmarks={typed}"]).evaluate.benchmarks == benchmarks


def test_quotes_null_references_and_numbers_mean_what_they_did() -> None:
    config = load_config(["data.train=null", "run='x y'", "evaluate.label=${run}", "seed=7", "rl.epochs=1_0"])
    assert (config.data.train, config.run, config.evaluate.label) == (None, "x y", "x y")
    assert (config.seed, config.rl.epochs) == (7, 10)


def test_what_is_no_text_is_left_to_hydra() -> None:
    for override in ("rl.steps=3", "chains.first.extra_body.x=1e3", "model={}", "no.such.key=a", "data.train=null"):
        assert as_typed(override) == override


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed", ["{1:A, 1_0:B, on:A, 'a b':B, x=y:A, model_a: 'B'}", """{"1":A,1_0:B,on:'A',a b:B,'x=y':A,model_a:B}"""]
)
def test_keys_of_tables_are_text(typed: str) -> None:
    labels = load_config([f"data.mix.sources.mine.labels={typed}"]).data.mix.sources["mine"].labels
    assert labels == {"1": "A", "1_0": "B", "on": "A", "a b": "B", "x=y": "A", "model_a": "B"}


@pytest.mark.slow
def test_text_within_records_is_text() -> None:
    sources = "{1e3:{path:2025_11_25,take:5,labels:{0:A}},b:{path:'x,y',domain:null}}"
    mine, other = load_config([f"data.mix.sources={sources}"]).data.mix.sources.values()
    assert (mine.path, mine.take, mine.labels) == ("2025_11_25", 5, {"0": "A"})
    assert (other.path, other.domain) == ("x,y", None)


def test_a_file_of_settings_is_read_as_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    source = "{path: 2025_11_25, columns: {prompt: on, chosen: 1e3}, labels: {0: A, yes: B}, take: 7}"
    lines = [f"mix: {{sources: {{1_0: {source}}}, drop_near_duplicates: yes}}", "lint: {leak_margin: 1e-2}"]
    file.write_text("\n".join([*lines, "ignore_columns: [1:30, 007, no]", "heldout: null"]))
    data = load_config([], file).data
    source = data.mix.sources["1_0"]
    assert (source.path, source.take) == ("2025_11_25", 7)
    assert (source.columns, source.labels) == ({"prompt": "on", "chosen": "1e3"}, {"0": "A", "yes": "B"})
    assert (data.mix.drop_near_duplicates, data.lint.leak_margin, data.heldout) == (True, 0.01, None)
    assert data.ignore_columns == ["1:30", "007", "no"]


@pytest.mark.parametrize("text", ["", "a: 1\na: 2", "just text", "mix: {sources: {a: {labels: {null: A}}}}", "- a"])
def test_a_file_that_holds_no_settings(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_config([], file)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "evaluate.label"])
@pytest.mark.parametrize("value", ["..", "a/b", "a\nb", "\x00", " ", ".", "\u202ea", "\udcff"])
def test_names_of_folders_are_plain(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.* must be a plain folder name"):
        load_config([f"{name}={value}"])


@pytest.mark.slow
def test_a_run_to_show_is_a_plain_folder_name_too() -> None:
    assert load_config(["tracking.runs=[a,b c]"]).tracking.runs == ["a", "b c"]
    with pytest.raises(ConfigError, match=r"tracking\.runs='\.\./x' must be a plain folder name"):
        load_config(["tracking.runs=[a,../x]"])


def test_an_empty_root_is_refused() -> None:
    with pytest.raises(ConfigError, match="output_root is empty"):
        load_config(["output_root="])


def test_a_value_that_cannot_be_read_is_answered_with_what_to_type() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(["chains.first.extra_body.stop=a(b, c"])
    typed = str(caught.value).rpartition("type ")[2]
    assert load_config(shlex.split(typed)).chains.first.extra_body == {"stop": "a(b, c"}


def test_a_line_of_arguments_is_cut_at_blanks_and_knows_quotes() -> None:
    line = """--args=a=(b)#c d='e f' g="it's" h=~/i $j"""
    assert arguments_of(["x=1", line]) == ["x=1", "a=(b)#c", "d=e f", "g=it's", "h=~/i", "$j"]
    with pytest.raises(ConfigError, match="quote that is never closed"):
        arguments_of(["--args=a=it's"])


@pytest.mark.parametrize("path", ["/a (b)/c=d,e#f.jsonl", "https://h/x?y=1&z=$HOME", "it's;`id`"])
def test_make_hands_any_path_on(path: str) -> None:
    arguments = {"ARGS": f"data.train={shlex.quote(path)}", "MODEL": path, "RUN": path.replace("$", "")}
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready-cpu", "evaluate", *(f"{name}={value}" for name, value in arguments.items())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    command = next(line for line in done.stdout.splitlines() if "pipelines.evaluate" in line)
    # The shell's own reading of the command, each argument on a line.
    printed = subprocess.run(
        ["bash", "-c", command.replace(".venv/bin/python -m pipelines.evaluate", "printf '%s\\n'")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert printed[1:] == [f"run={arguments['RUN']}", f"evaluate.model={path}", f"--args={arguments['ARGS']}"]
    assert arguments_of(printed)[-1] == f"data.train={path}"
