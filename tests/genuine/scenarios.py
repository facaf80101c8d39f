"""What every old client is made to ask: the scenarios, by name.

A scenario is told to the sandbox by a marker in the question, see ``proxy/sandbox``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LINGER = "[linger]"
"""In a question: the upstream says all, but does not end its answer until it is left."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One call: what is asked, and what of the usual is different."""

    ask: str = "Say hello to 2023!"
    parameters: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    """What follows the proxy's address in the URL that the SDK is given."""
    key: str = "sk-ant-of-2023"
    leave: bool = False
    """Whether the client leaves at the first event."""
    stream_only: bool = False

    def job(self, method: str, address: str, always: Mapping[str, Any]) -> dict[str, Any]:
        """The scenario as the drivers read it."""
        usual = {"model": "claude-v1", "max_tokens_to_sample": 200}
        return {
            "method": method,
            "url": address + self.path,
            "key": self.key,
            "ask": self.ask,
            "parameters": {**usual, **self.parameters, **always},
            "leave": self.leave,
        }


OF_THEN = {
    "temperature": 1,
    "top_k": -1,
    "top_p": -1,
    "tags": {"team": "poets"},
    "disable_checks": False,
}
"""What programs of 2023 sent along, and what today's API would refuse."""


def _failing(kind: str, **different: Any) -> Scenario:
    return Scenario(f"[sandbox:fail={kind}] Go!", **different)


SCENARIOS = {
    "answer": Scenario(),
    "unicode": Scenario('Grüße aus 東京 👩🏽\u200d🚀 \\ " !'),
    "conversation": Scenario("One?\n\nAssistant: Two.\n\nHuman: Three?"),
    "max_tokens": Scenario(parameters={"max_tokens_to_sample": 5}),
    "stop_sequences": Scenario(parameters={"stop_sequences": ["\n\nHuman:", "sandbox"]}),
    "parameters_of_then": Scenario(parameters=OF_THEN),
    "url_slash": Scenario(path="/"),
    "url_v1": Scenario(path="/v1"),
    "url_v1_slash": Scenario(path="/v1/"),
    "overloaded": _failing("overloaded"),
    "rate_limit": _failing("rate_limit"),
    "invalid": Scenario(parameters={"temperature": 2}),
    "no_such_model": Scenario(parameters={"model": "claude-0"}),
    "unauthorized": Scenario(key=""),
    "html": _failing("html"),
    "error_first": _failing("error_first"),
    "error_mid": _failing("error_mid"),
    "cut": _failing("cut"),
    "eof": _failing("eof"),
    "nonsense": _failing("nonsense"),
    "left": _failing("hang", leave=True, stream_only=True),
    "linger": Scenario(f"{LINGER} Go!", stream_only=True),
}

FOR_FRAMEWORKS = (
    "answer",
    "unicode",
    "conversation",
    "max_tokens",
    "stop_sequences",
    "overloaded",
    "no_such_model",
    "error_mid",
    "cut",
)
"""What a framework is made to ask, which stands upon an SDK or reads the stream itself."""

AFTER = (
    " This is the sandbox: no key, no model, not even a café."
    " 日本 and 🙂 show that every byte arrives."
)
"""What the sandbox says when it has repeated the question."""

ANSWER = ' Hello! You said: "Say hello to 2023!"' + AFTER
THREE_PIECES = " Hello! You said:"
