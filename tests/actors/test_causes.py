"""The line that says what is wrong: texts as pydantic, torch, vLLM and Ray write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.causes import cause_in_log, is_elsewhere, one_line, why_it_died

PYDANTIC = """1 validation error for ModelConfig
  Value error, User-specified max_model_len (4608) is greater than the derived max_model_len (512). \
[type=value_error, input_value=ArgsKwargs((), {'model': ...}), input_type=ArgsKwargs]
    For further information visit https://errors.pydantic.dev/2.12/v/value_error"""

ENGINE_LOG = """INFO 11-25 18:00:00 [core.py:94] Initializing a V1 LLM engine
(EngineCore pid=417) ERROR 11-25 18:00:03 [core.py:866] EngineCore failed to start.
(EngineCore pid=417) ERROR 11-25 18:00:03 [core.py:866] Traceback (most recent call last):
(EngineCore pid=417) ERROR 11-25 18:00:03 [core.py:866]   File "core.py", line 857, in run_engine_core
(EngineCore pid=417) ERROR 11-25 18:00:03 [core.py:866]     engine_core = EngineCoreProc(*args)
(EngineCore pid=417) ERROR 11-25 18:00:03 [core.py:866] ValueError: No available memory for the cache blocks.
Traceback (most recent call last):
  File "engine.py", line 12, in start
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
"""


def test_pydantic_says_the_field_and_the_fault_not_an_address() -> None:
    assert one_line(PYDANTIC) == (
        "1 validation error for ModelConfig: Value error, User-specified max_model_len (4608) is greater than the "
        "derived max_model_len (512)."
    )


def test_every_field_of_a_pydantic_error_is_named() -> None:
    text = (
        "2 validation errors for Settings\nport\n  Field required [type=missing, input_value={}, input_type=dict]\n"
        "    For further information visit https://errors.pydantic.dev/2.12/v/missing\nname\n"
        "  Input should be a valid string [type=string_type, input_value=3, input_type=int]\n"
        "    For further information visit https://errors.pydantic.dev/2.12/v/string_type"
    )
    assert one_line(text) == (
        "2 validation errors for Settings: port Field required name Input should be a valid string"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no such shelf", "no such shelf"),
        ("", "no reason was given"),
        ("\n\n", "no reason was given"),
        ("the model is too large:\n  80 GiB are needed\n  40 GiB are there", None),
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free.\nSee also: the manual", None),
        ("\x1b[36mcolour\x1b[39m", "colour"),
    ],
)
def test_plain_texts_stay_whole(text: str, said: str | None) -> None:
    found = one_line(text)
    assert found == said if said is not None else found.startswith(text.split("\n")[0])
    assert "\n" not in found


def test_a_traceback_gives_the_exception_that_caused_the_others() -> None:
    text = (
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\n'
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        'Traceback (most recent call last):\n  File "b.py", line 2, in h\nRuntimeError: the step failed\n'
    )
    assert one_line(text) == "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


def test_a_cause_above_is_found_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "rollout-0.log"
    log.write_text(ENGINE_LOG)
    assert is_elsewhere("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
    assert cause_in_log(str(log)) == "ValueError: No available memory for the cache blocks."
    assert cause_in_log(str(tmp_path / "missing.log")) is None
    assert cause_in_log(None) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "The actor died unexpectedly before finishing this task.\n\tclass_name: Worker\n\tpid: 3\n"
            "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
            "Worker unexpectedly exits with a connection error code 2. End of file. There are some potential root "
            "causes. (1) The process is killed by SIGKILL by OOM killer due to high memory usage. (2) ray stop",
            "ran out of memory",
        ),
        (
            "The actor died unexpectedly before finishing this task.\n\tclass_name: Worker\nThe actor is dead because "
            "its worker process has died. Worker exit type: USER_ERROR Worker exit detail: Worker exits with an exit "
            "code 3.",
            "Worker exits with an exit code 3.",
        ),
        (
            "The actor died because its node has died. Node Id: abc\n\tthe actor's node was terminated unexpectedly: "
            "health check failed due to missing too many heartbeats",
            "its node has died",
        ),
        (
            "The actor died because of an error raised in its creation task, ray::Worker.__init__() (pid=1)\n"
            'Traceback (most recent call last):\n  File "w.py", line 4, in __init__\nValueError: no such model\n',
            "ValueError: no such model",
        ),
        (
            "The actor died because of an error raised in its creation task, ray::Worker.__init__() (pid=1, ip=::1)\n"
            '  File "w.py", line 4, in __init__\n    start()\n'
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            "  Value error, Model architectures ['Nobodys'] are not supported [type=value_error, input_value=3]\n"
            "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
            "1 validation error for ModelConfig: Value error, Model architectures ['Nobodys'] are not supported",
        ),
        ("Task was killed due to the node running low on memory.\nMemory on the node was 23GB / 24GB", "low on memory"),
    ],
)
def test_a_death_says_why(text: str, said: str) -> None:
    found = why_it_died(text)
    assert said in found
    assert "\n" not in found
