"""The judge behind HTTP: the answers of the one in process, and every fault of a server as one clear error."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from families import FAMILIES
from scripted_engines import RULE, ScriptedEngines, judge_of, longer
from served import LIMITS, Faulty, app_of, listening

from actors.errors import UserError
from actors.redaction import KeyRefused
from pipelines.config import ConfigError
from pipelines.data.schema import DataError
from pipelines.judgment.connection import JudgeRefused, JudgeUnreachable
from pipelines.judgment.decision import PAIRWISE
from pipelines.judgment.judge import Judge
from pipelines.judgment.judging import asked, in_order
from pipelines.judgment.listing import LISTWISE, rank_listwise
from pipelines.judgment.modes import ModeUnsupported, mode_templates
from pipelines.judgment.ranking import Group, rank_groups
from pipelines.judgment.rating import POINTWISE, to_rate
from pipelines.judgment.rewards import reward_groups
from pipelines.serving.app import build_app
from pipelines.serving.service import Service

QWEN = FAMILIES["qwen2_5"]()
COMPARISONS: list[Any] = [("q", "x" * length, "y" * (9 - length)) for length in range(1, 9)]
COMPARISONS += [([{"role": "system", "content": "s"}, {"role": "user", "content": "Ärger 😀"}], "á", "\u202elang")]
RESPONSES = ["xx", "xxxx", "x", "xx", "xxxxx"]


def scripted() -> ScriptedEngines:
    return ScriptedEngines(QWEN, longer)


@pytest.mark.slow
def test_the_answers_are_those_of_the_judge_itself() -> None:
    inner = judge_of(scripted())

    async def directly() -> Any:
        pairs = [asked(*comparison) for comparison in COMPARISONS]
        decide = partial(inner.answers, PAIRWISE)
        group = Group("g", "q", tuple(RESPONSES))
        (ranking,) = await rank_groups(decide, [group], "swiss")
        return await in_order(decide(pairs)), ranking, await reward_groups(decide, [group])

    decisions, ranking, rewards = asyncio.run(directly())
    with listening(app_of(scripted())) as address, Judge(address) as judge:
        assert judge.model == "model"
        assert judge.compare_all(COMPARISONS) == decisions
        assert judge.compare(*COMPARISONS[0]) == decisions[0]
        assert judge.rank("q", RESPONSES, method="swiss") == ranking
        assert judge.reward_all([("q", RESPONSES)]) == rewards
        assert asyncio.run(judge.acompare_all(COMPARISONS[:3])) == decisions[:3]
        assert asyncio.run(judge.arank("q", RESPONSES, method="swiss")) == ranking
        assert asyncio.run(judge.areward("q", RESPONSES)) == rewards[0]
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(lambda one: judge.compare(*one), COMPARISONS)) == decisions


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_a_decision_with_its_cause_as_in_process() -> None:
    rule = replace(RULE, max_prompt_tokens=40)
    with listening(app_of(scripted(), rule=rule)) as address, Judge(address) as judge:
        decision, short = judge.compare_all([("q", "x " * 60, "y"), ("q", "x", "yyy")])
        assert (decision.winner, decision.failures) == ("tie", {"prompt_too_long": 2})
        assert short.winner == "b"
        assert judge.rank("q", ["x " * 60, "y", "zz"]).failures == {"prompt_too_long": 4}


@pytest.mark.slow
def test_settings_of_a_request_and_those_of_the_server() -> None:
    with listening(app_of(scripted())) as address:
        with Judge(address, "judge.votes=3", "judge.temperature=0.5", "judge.orders=b_first") as judge:
            decision = judge.compare("q", "x", "yy")
            assert ([vote.order for vote in decision.votes], decision.winner) == (["b_first"] * 3, "b")
        with pytest.raises(ConfigError, match=r"judge\.model is the server's"):
            Judge(address, "judge.model=other")
        with pytest.raises(ConfigError, match=r"judge\.votes"):
            Judge(address, "judge.votes=0")


@pytest.mark.slow
def test_what_cannot_be_judged_is_refused_before_it_is_sent() -> None:
    engines = scripted()
    counted = Faulty(app_of(engines))
    with listening(counted) as address, Judge(address) as judge:
        with pytest.raises(DataError, match="comparison 1: both responses are equal"):
            judge.compare_all([("q", "x", "y"), ("q", "x", "x")])
        with pytest.raises(DataError, match="ranking needs at least 2"):
            judge.rank("q", ["x"])
        with pytest.raises(ValueError, match="unknown method 'elo'"):
            judge.rank("q", ["x", "y"], method="elo")  # type: ignore[arg-type]
        with pytest.raises(DataError, match="no responses"):
            judge.reward("q", [])
        assert counted.posts == 0
        with pytest.raises(DataError, match="at most 64"):
            judge.rank("q", [str(number) for number in range(65)])


@pytest.mark.slow
def test_a_busy_server_is_asked_again_after_what_it_says() -> None:
    app = Faulty(app_of(scripted()), (429, {"retry-after": "1"}), (503, {}), "cut", (504, {"retry-after": "soon"}))
    with listening(app) as address, Judge(address) as judge:
        started = time.monotonic()
        assert judge.compare("q", "x", "yy").winner == "b"
        assert app.posts == 5
        assert time.monotonic() - started >= 1.0


@pytest.mark.slow
def test_a_server_that_stays_busy_is_given_up_at_the_deadline_with_what_it_said() -> None:
    app = Faulty(app_of(scripted()), *[(429, {"retry-after": "0"})] * 1000)
    with (
        listening(app) as address,
        Judge(address, deadline=1.0) as judge,
        pytest.raises(JudgeUnreachable, match=r"/v1/compare: no answer in 1 s; the last of \d+ attempts: status 429"),
    ):
        judge.compare("q", "x", "yy")


@pytest.mark.slow
def test_a_failing_engine_is_asked_again_and_never_a_verdict() -> None:
    left = [None, None]
    engines = ScriptedEngines(QWEN, lambda text, vote: left.pop() if left else longer(text))
    with listening(app_of(engines)) as address, Judge(address) as judge:
        assert judge.compare("q", "x", "yy").winner == "b"
        assert left == []


@pytest.mark.slow
def test_requests_in_flight_are_bounded() -> None:
    lock, now, most = threading.Lock(), [0], [0]
    app = app_of(scripted())

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        posted = scope["type"] == "http" and scope["method"] == "POST"

        async def counted(message: Any) -> None:
            # Before the client can know that its answer is whole.
            if posted and message["type"] == "http.response.body" and not message.get("more_body"):
                with lock:
                    now[0] -= 1
            await send(message)

        if posted:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            await asyncio.sleep(0.01)
        await app(scope, receive, counted)

    with listening(counting) as address, Judge(address, in_flight=3) as judge:
        judge.compare_all([("q", "x", "y" * number) for number in range(2, 40)])
    assert most[0] == 3


@pytest.mark.slow
def test_no_server_another_server_and_wrong_keys_are_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(JudgeUnreachable, match=r"no judge answers at .*make serve"):
        Judge(address)

    async def other(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b"<html>"})

    with listening(other) as address, pytest.raises(JudgeRefused, match=r"no server of `make serve` .status 404"):
        Judge(address)
    with listening(app_of(scripted(), keys=("right-key-1", "right-key-2"))) as address:
        for key in (None, "wrong-key"):
            with pytest.raises(JudgeRefused, match="refuses the key") as caught:
                Judge(address, key=key)
            assert caught.value.status == 401
            assert "wrong-key" not in str(caught.value)
        with pytest.raises(KeyRefused, match="white space"):
            Judge(address, key="two words")
        with Judge(f"{address}/v1/", key="right-key-2") as judge:
            assert judge.compare("q", "x", "yy").winner == "b"
    for wrong in ("http://", "http://x:0", "http://host:8000/?a=b"):
        with pytest.raises(ConfigError, match="no address"):
            Judge(wrong)


@pytest.mark.slow
def test_a_judge_whose_engine_is_lost_is_said_and_not_taken_for_another_server() -> None:
    async def sick(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b'{"error": {"message": "engine 0 has died"}}'})

    with listening(sick) as address, pytest.raises(JudgeUnreachable, match="cannot answer now: engine 0 has died"):
        Judge(address)


@pytest.mark.slow
def test_an_answer_in_another_form_is_said() -> None:
    class Older(Faulty):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["method"] == "POST":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b'{"winner": "a"}'})
            else:
                await self._app(scope, receive, send)

    with (
        listening(Older(app_of(scripted()))) as address,
        Judge(address) as judge,
        pytest.raises(JudgeRefused, match="another form"),
    ):
        judge.compare("q", "x", "yy")


@pytest.mark.slow
def test_the_first_failure_ends_a_batch_and_the_judge_goes_on() -> None:
    with listening(app_of(scripted(), limits=replace(LIMITS, body_bytes=3000))) as address:
        with Judge(address) as judge:
            with pytest.raises(JudgeRefused, match="413") as caught:
                judge.compare_all([("q", "x", "y" * 20), ("q", "x" * 5000, "y"), ("q", "x", "yy")])
            assert isinstance(caught.value, UserError)
            assert judge.compare("q", "x", "yy").winner == "b"
        judge.close()


@pytest.mark.slow
def test_ratings_and_lists_are_those_of_the_judge_itself() -> None:
    def script(text: str, vote: int) -> str:
        return "<answer>[[B > A]]</answer>" if "order" in text else f"<answer>[[{len(text) % 10 + 1}]]</answer>"

    def made(modes: Any = None) -> Any:
        inner = replace(judge_of(ScriptedEngines(QWEN, script)), templates=mode_templates("tiny"), modes=modes)
        return build_app(Service(inner, LIMITS), ())

    answers: list[Any] = [("q", "x"), ([{"role": "user", "content": "q"}], "yy 😀")]
    inner = replace(judge_of(ScriptedEngines(QWEN, script)), templates=mode_templates("tiny"))

    async def directly() -> Any:
        rated = await in_order(inner.answers(POINTWISE, [to_rate(*answer) for answer in answers]))
        return rated, await rank_listwise(partial(inner.answers, LISTWISE), [Group("g", "q", ("x", "y"))])

    rated, ranked = asyncio.run(directly())
    with listening(made()) as address, Judge(address) as judge:
        assert judge.score_all(answers) == rated
        assert asyncio.run(judge.ascore(*answers[0])) == rated[0]
        assert judge.rank("q", ["x", "y"], method="listwise") == ranked[0]
    said = pytest.raises(ModeUnsupported, match="was not trained for mode pointwise")
    with listening(made(("pairwise",))) as address, Judge(address) as judge, said:
        judge.score("q", "x")
