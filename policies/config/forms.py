"""Names, globs, headers and the other words of the policy file that have a form, read from their source text.

Every reader raises ValueError with a message that says what is wanted.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from policies.config.kind import ScalarKind
from policies.config.mistakes import quoted, unknown
from policies.config.nodes import OFF
from policies.config.units import COUNT, COUNT_ABOVE_0, PORT, read_count, read_number

_TEXT_SCHEMA: Final = {"type": ["string", "number", "boolean"]}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VISIBLE = re.compile(r"[\x20-\x7e\t]*")
_HASH_HEADER = re.compile(r"header:[A-Za-z0-9!#$%&'*+.^_`|~-]+|body:[A-Za-z0-9_]+")
_BOUND = re.compile(r"(<=|>=|<|>)\s*([0-9]+[kM]?)")
_LONGEST_MODEL: Final = 256

OUTCOME_WORDS: Final = ("not_sent", "no_answer", "too_slow", "broken_off")
# What our own transport decides; an operator's value would break the framing or leak a credential past `api_key`.
_OWN_HEADERS: Final = frozenset(
    "host connection content-length transfer-encoding te trailer upgrade keep-alive proxy-connection expect".split()
)


@dataclass(frozen=True, slots=True)
class Bound:
    """A comparison with a count: `<=2048`."""

    operator: Literal["<", "<=", ">", ">="]
    count: int


@dataclass(frozen=True, slots=True)
class TextStep:
    """Number of workers that change at once: a count, or a percentage of the existing workers."""

    amount: float
    percent: bool


def _matching(pattern: re.Pattern[str], phrase: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"expected {phrase}, found {quoted(text)}")
        return text

    return read


def _read_text(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


def _read_some_text(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return _read_text(text)


def _read_plan_name(text: str) -> str:
    if text in OFF:
        raise ValueError(f"{quoted(text)} means that there is none, so nothing can be called so")
    return _matching(_NAME, "a name (letters, digits, . _ -)")(text)


def _read_model(text: str) -> str:
    if not text or not text.isprintable() or len(text) > _LONGEST_MODEL:
        raise ValueError(
            f"expected a model's name, at most {_LONGEST_MODEL} printable characters, found {quoted(text)}"
        )
    return text


def _read_glob(text: str) -> str:
    """A model's name, which may hold `*`, `?` and `[seq]` (policies/globs.py)."""
    if text.rfind("[") > text.rfind("]"):
        raise ValueError(f"a [ without its ] in {quoted(text)}")
    return _read_model(text)


def _read_path_glob(text: str) -> str:
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or set(text) & set(' ?#[]"'):
        raise ValueError(f"expected a path such as /predict/* (its only wildcard is *), found {quoted(text)}")
    if ".." in text.split("/"):
        raise ValueError("a path here has no ..")
    return text


def _read_url_path(text: str) -> str:
    return text if text == "auto" else _read_path_glob(text)


def _read_header_name(text: str) -> str:
    name = _matching(_TOKEN, "a header's name")(text).lower()
    if name == "authorization":
        raise ValueError("authorization is sent by api_key, not as a header")
    if name in _OWN_HEADERS:
        raise ValueError(f"{name} is set by the gateway itself")
    return name


def _read_header_value(text: str) -> str:
    return _matching(_VISIBLE, "a header's value in printable ASCII")(text).strip(" \t")


def _read_bound(text: str) -> Bound:
    found = _BOUND.fullmatch(text)
    if found is None:
        raise ValueError(f'expected a comparison such as "<=2048", found {quoted(text)}')
    operator: Any = found[1]
    return Bound(operator, read_count(found[2]))


def _read_step(text: str) -> TextStep:
    if text.endswith("%"):
        amount = read_number(text[:-1])
    else:
        amount = COUNT_ABOVE_0.read(text)
    if amount == 0:
        raise ValueError("must be more than 0")
    return TextStep(amount, text.endswith("%"))


def _read_outcome(text: str) -> str | int:
    if text in OUTCOME_WORDS:
        return text
    if re.fullmatch("[1-5][0-9][0-9]", text):
        return int(text)
    raise ValueError(unknown("outcome", text, [*OUTCOME_WORDS, "a status such as 503"]))


def _read_hash_on(text: str) -> str:
    words = ("key", "tenant", "user", "session")
    if text in words or _HASH_HEADER.fullmatch(text):
        return text
    raise ValueError(unknown("hash_on", text, [*words, "header:NAME", "body:FIELD"]))


def read_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"expected true or false, found {quoted(text)}")
    return text == "true"


def _word_or(word: str, kind: ScalarKind) -> ScalarKind:
    """`word` itself, or what `kind` reads."""

    def read(text: str) -> Any:
        if text == word:
            return text
        try:
            return kind.read(text)
        except ValueError as error:
            raise ValueError(str(error).replace("expected ", f"expected {word} or ", 1)) from None

    return ScalarKind(f"{word} or {kind.phrase}", read, {"anyOf": [{"const": word}, dict(kind.schema)]}, kind.write)


def words(what: str, choices: tuple[str, ...], values: tuple[Any, ...] | None = None) -> ScalarKind:
    """One word out of a list; the value is the word."""
    by_text = dict(zip(choices, choices if values is None else values, strict=True))

    def read(text: str) -> Any:
        if text not in by_text:
            raise ValueError(unknown(what, text, choices))
        return by_text[text]

    return ScalarKind(f"one of {', '.join(choices)}", read, {"enum": list(by_text.values())})


TEXT: Final = ScalarKind("text", _read_text, _TEXT_SCHEMA)
SOME_TEXT: Final = ScalarKind("text", _read_some_text, {**_TEXT_SCHEMA, "minLength": 1})
BOOL: Final = ScalarKind("true or false", read_bool, {"type": "boolean"})
VERSION: Final = words("version of this file's format", ("1",), (1,))
NAME: Final = ScalarKind(
    "a name", _matching(_NAME, "a name (letters, digits, . _ -)"), {**_TEXT_SCHEMA, "pattern": f"^{_NAME.pattern}$"}
)
PLAN_NAME: Final = ScalarKind("a plan's name", _read_plan_name, NAME.schema)
MODEL: Final = ScalarKind("a model's name", _read_model, {**_TEXT_SCHEMA, "minLength": 1})
GLOB: Final = ScalarKind("a model's name or a glob", _read_glob, {**_TEXT_SCHEMA, "minLength": 1})
PATH_GLOB: Final = ScalarKind("a path such as /predict/*", _read_path_glob, {"type": "string", "pattern": "^/"})
URL_PATH: Final = ScalarKind("auto or a path such as /health", _read_url_path, {"type": "string"})
AUTO_PORT: Final = _word_or("auto", PORT)
PROCESSES: Final = _word_or("auto", COUNT_ABOVE_0)
IN_FLIGHT: Final = _word_or("auto", COUNT_ABOVE_0)
PATH: Final = ScalarKind("a file's path", _read_text, {"type": "string", "minLength": 1}, is_path=True)
LOG_PATH: Final = replace(PATH, phrase="a file's path, -, stdout or stderr", not_paths=("-", "stdout", "stderr", *OFF))
HEADER_NAME: Final = ScalarKind("a header's name", _read_header_name, {"type": "string"})
HEADER_VALUE: Final = ScalarKind("a header's value", _read_header_value, _TEXT_SCHEMA)
ENV_NAME: Final = ScalarKind(
    "an environment variable's name",
    _matching(_ENV_NAME, "an environment variable's name"),
    {"type": "string", "pattern": f"^{_ENV_NAME.pattern}$"},
)
BOUND: Final = ScalarKind(
    'a comparison such as "<=2048"',
    _read_bound,
    {"type": "string", "pattern": f"^{_BOUND.pattern}$"},
    lambda bound: f"{bound.operator}{bound.count}",
)
STEP: Final = ScalarKind(
    "a number or a percentage",
    _read_step,
    {"type": ["integer", "string"]},
    lambda step: f"{step.amount:g}%" if step.percent else int(step.amount),
)
OUTCOME: Final = ScalarKind(
    "an outcome word or a status",
    _read_outcome,
    {"anyOf": [{"enum": list(OUTCOME_WORDS)}, {"type": "integer", "minimum": 100, "maximum": 599}]},
)
HASH_ON: Final = ScalarKind("key, tenant, user, session, header:NAME or body:FIELD", _read_hash_on, {"type": "string"})
GPUS: Final = words("gpus", ("auto", "none"))
GPU: Final = COUNT
