"""Calls the genuine LangChain of July 2023, unmodified, as its documentation of then did.

Runs beside the project, never within it. Standard input has jobs, see ``scenarios.py``;
standard output gets what came of each. All are done at once, so that one that hangs costs no
other its time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

warnings.simplefilter("ignore")  # it was written for libraries of then

# isort: off
from langchain.callbacks.base import BaseCallbackHandler  # type: ignore[import-not-found]  # noqa: E402
from langchain.chat_models import ChatAnthropic  # type: ignore[import-not-found]  # noqa: E402
from langchain.llms import Anthropic  # type: ignore[import-not-found]  # noqa: E402
from langchain.schema import HumanMessage  # type: ignore[import-not-found]  # noqa: E402
# isort: on

Json = dict[str, Any]
Stops = list[str] | None

PATIENCE = 10
"""Seconds of silence after which a job counts as hung."""


class Tokens(BaseCallbackHandler):  # type: ignore[misc]
    """A streaming callback, as StreamingStdOutCallbackHandler is one."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def on_llm_new_token(self, token: str, **_: Any) -> None:
        self.tokens.append(token)


def llm(model: Any, ask: str, stop: Stops) -> str:
    """A prompt that LangChain wraps: it puts the beginning of the answer at its end."""
    text: str = model(ask, stop=stop)
    return text


def llm_async(model: Any, ask: str, stop: Stops) -> str:
    """The same with asyncio."""
    result = asyncio.run(model.agenerate([ask], stop=stop))
    text: str = result.generations[0][0].text
    return text


def chat(model: Any, ask: str, stop: Stops) -> str:
    """A message."""
    text: str = model([HumanMessage(content=ask)], stop=stop).content
    return text


def chat_async(model: Any, ask: str, stop: Stops) -> str:
    """The same with asyncio."""
    result = asyncio.run(model.agenerate([[HumanMessage(content=ask)]], stop=stop))
    text: str = result.generations[0][0].text
    return text


METHODS: dict[str, tuple[Any, Callable[[Any, str, Stops], str]]] = {
    "llm": (Anthropic, llm),
    "llm_async": (Anthropic, llm_async),
    "chat": (ChatAnthropic, chat),
    "chat_async": (ChatAnthropic, chat_async),
}


def done(job: Json) -> Json:
    """One call, and all that the caller saw of it."""
    method = job["method"].removesuffix("_stream")
    kind, call = METHODS[method]
    parameters = dict(job["parameters"])
    stop = parameters.pop("stop_sequences", None)
    tokens: list[str] = []
    model = kind(
        anthropic_api_key=job["key"],
        anthropic_api_url=job["url"],
        default_request_timeout=PATIENCE,
        streaming=method != job["method"],
        callbacks=[Tokens(tokens)],
        **parameters,
    )
    result = error = None
    try:
        result = call(model, job["ask"], stop)
    except Exception as raised:  # noqa: BLE001  (whatever it raises is what came of it)
        error = {"type": type(raised).__name__, "args": list(raised.args)}
    return {"events": tokens, "result": result, "error": error}


if __name__ == "__main__":
    jobs = json.load(sys.stdin)
    with ThreadPoolExecutor(len(jobs)) as threads:
        outcomes = dict(zip(jobs, threads.map(done, jobs.values()), strict=True))
    json.dump(outcomes, sys.stdout, default=repr)
