"""What the documentation names is there: files and folders, modules, targets of make, settings, tests."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from actors.learner.choices import LOSSES
from pipelines.config import OPEN, known_keys

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = [*PAGES, ROOT / "Makefile", ROOT / "setup.cfg", *sorted((ROOT / "launch").glob("*.*"))]
TEXTS += [file for top in ("actors", "pipelines", "conf") for file in sorted((ROOT / top).rglob("*.*"))]
TEXTS = [file for file in TEXTS if file.suffix in (".md", ".py", ".yaml", ".jinja", ".sbatch", ".cfg", "")]
TOPS = "actors|pipelines|conf|launch|tests|docs"
PATH = re.compile(rf"(?<![\w./<-])(?:{TOPS})/[\w./*-]*\w/?")
MODULE = re.compile(r"(?<![\w./])(?:actors|pipelines|launch)(?:\.\w+)+")
TARGET = re.compile(r"\bmake((?: [a-z][\w-]*)+)")
WORDS = re.compile(r"`([^`\n]+)`")
SETTING = re.compile(r"^\+*([a-z_]+(?:\.[a-z_0-9]+)+)(?==|$)")
SECTIONS = {key.partition(".")[0] for key in known_keys() if "." in key}


def ids(files: list[Path]) -> list[str]:
    return [str(file.relative_to(ROOT)) for file in files]


def is_there(name: str) -> bool:
    """A path, or a pattern of paths, of the repository."""
    return any(ROOT.glob(name.rstrip("/")))


def is_module(dotted: str) -> bool:
    """A module, a folder of modules, or a name that stands in one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:count])
        file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        if file.is_file():
            return count == len(parts) or re.search(rf"\b{parts[count]}\b", file.read_text()) is not None
    return False


def spread(text: str) -> Iterator[str]:
    """``a_{b,c}`` as ``a_b`` and ``a_c``."""
    parts = re.split(r"\{([\w,]+)\}", text)
    choices = [part.split(",") if index % 2 else [part] for index, part in enumerate(parts)]
    return ("".join(chosen) for chosen in product(*choices))


@pytest.mark.parametrize("file", TEXTS, ids=ids(TEXTS))
def test_paths_and_modules_are_there(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    paths = {path for match in PATH.findall(text) for path in spread(match)}
    assert {path for path in paths if not is_there(path)} == set()
    assert {name for name in MODULE.findall(text) if not is_module(name)} == set()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_short_names_of_files_are_there(page: Path) -> None:
    """A file without its folder, as tables name it: ``fleet.py``."""
    named = {word for word in WORDS.findall(page.read_text()) if re.fullmatch(r"[\w/-]+\.(py|yaml|sbatch|jinja)", word)}
    own = {"pairs.yaml", "own.yaml", "my_rewards.py"}
    assert {name for name in named - own if not any(ROOT.rglob(name))} == set()


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_targets_of_make_are_there(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    text = page.read_text()
    quoted = [*WORDS.findall(text), *re.findall(r"^(?: {4})?(make .*)$", text, re.MULTILINE)]
    named = {target for line in quoted for found in TARGET.findall(line.partition("#")[0]) for target in found.split()}
    assert named - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_settings_are_there(page: Path) -> None:
    text = page.read_text()
    commands = re.findall(r"^(?: {4})?(?:make|\.venv/bin/python -m pipelines|sbatch) .*$", text, re.MULTILINE)
    words = [*WORDS.findall(text), *(word for line in commands for word in re.split(r"[\s\"']+", line))]
    settings = {match[1] for word in words if (match := SETTING.match(word.strip()))}
    settings = {key for key in settings if key.partition(".")[0] in SECTIONS and not is_there_as_file(key)}
    assert {key for key in settings if key not in known_keys() and not f"{key}.".startswith(OPEN)} == set()


def is_there_as_file(word: str) -> bool:
    return word.rpartition(".")[2] in ("py", "yaml", "md", "html", "json", "jsonl", "parquet", "txt", "sbatch")


def test_tests_that_pages_name_are_there() -> None:
    page = (ROOT / "docs" / "robustness.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert named
    for file, test in named:
        assert f"def {test}" in (ROOT / file).read_text(), (file, test)


def test_the_history_has_the_commits_that_are_examples() -> None:
    """Where there is a history: an export of the tree has none."""
    subjects = subprocess.run(["git", "log", "--format=%s"], capture_output=True, text=True, cwd=ROOT).stdout
    if len(subjects.splitlines()) < 10:
        pytest.skip("no history")
    named = re.findall(r"commit \"([^\"]+)\"", re.sub(r"\s+", " ", (ROOT / "CONTRIBUTING.md").read_text()))
    assert named
    assert [subject for subject in named if not any(line.startswith(subject) for line in subjects.splitlines())] == []


def test_every_bundle_and_loss_is_described() -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text()
    bundles = [file.stem for file in (ROOT / "conf" / "algorithm").glob("*.yaml")]
    assert [name for name in (*bundles, *LOSSES) if f"`{name}`" not in page] == []
