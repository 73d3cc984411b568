"""The types of a request's top level, as pydantic checks them for vLLM: what it takes for a number, and its words
where it can't.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from backends.simulator.refusals import Refusal

Body = dict[str, Any]

_TRUE = frozenset(("true", "1", "yes", "on", "t", "y"))
_FALSE = frozenset(("false", "0", "no", "off", "f", "n"))


def check(body: Body, fields: Mapping[str, str], required: Iterable[str] = ()) -> None:
    """Types of the top level, in the fields' order, each value replaced by what vLLM would take it for; raises its
    400.
    """
    errors = []
    for name, kind in fields.items():
        if name not in body:
            if name in required:
                errors.append(error("missing", f"body.{name}", "Field required", body))
        elif body[name] is not None or name in required:
            errors += _KINDS[kind](body, name)
    if errors:
        raise Refusal.invalid(errors)


def missing(*names: str, given: object = None) -> Refusal:
    """Fields that have to be there."""
    return Refusal.invalid([error("missing", f"body.{name}", "Field required", given) for name in names])


def error(kind: str, loc: str, text: str, given: object) -> dict[str, object]:
    return {"type": kind, "loc": loc, "msg": text, "input": _shown(given)}


def _shown(given: object) -> object:
    if isinstance(given, list | dict):
        return f"<{type(given).__name__} of {len(given)} items>"
    text = given if isinstance(given, str) else str(given)
    return text if len(text) <= 200 else text[:200] + "...[truncated]"


def _string(body: Body, name: str) -> list[dict[str, object]]:
    if isinstance(body[name], str):
        return []
    return [error("string_type", f"body.{name}", "Input should be a valid string", body[name])]


def _list(body: Body, name: str) -> list[dict[str, object]]:
    if isinstance(body[name], list):
        return []
    return [error("list_type", f"body.{name}", "Input should be a valid list", body[name])]


def _object(body: Body, name: str) -> list[dict[str, object]]:
    if isinstance(body[name], dict):
        return []
    text = "Input should be a valid dictionary or object to extract fields from"
    return [error("model_attributes_type", f"body.{name}", text, body[name])]


def _strings(body: Body, name: str) -> list[dict[str, object]]:
    given = body[name]
    if isinstance(given, str) or (isinstance(given, list) and all(isinstance(one, str) for one in given)):
        return []
    return _string(body, name) + _list(body, name)


def _prompt(body: Body, name: str) -> list[dict[str, object]]:
    if isinstance(body[name], str | list):
        return []
    lists = _list(body, name)
    return [*lists, *lists, *_string(body, name), *lists]


def _integer(body: Body, name: str) -> list[dict[str, object]]:
    given, loc = body[name], f"body.{name}"
    try:
        if isinstance(given, str):
            body[name] = int(given)
        elif isinstance(given, float):
            if not given.is_integer():
                text = "Input should be a valid integer, got a number with a fractional part"
                return [error("int_from_float", loc, text, given)]
            body[name] = int(given)
        elif isinstance(given, int):
            body[name] = int(given)
        else:
            return [error("int_type", loc, "Input should be a valid integer", given)]
    except ValueError:
        text = "Input should be a valid integer, unable to parse string as an integer"
        return [error("int_parsing", loc, text, given)]
    return []


def _number(body: Body, name: str) -> list[dict[str, object]]:
    given, loc = body[name], f"body.{name}"
    try:
        if not isinstance(given, str | int | float):
            return [error("float_type", loc, "Input should be a valid number", given)]
        body[name] = float(given)
    except ValueError:
        text = "Input should be a valid number, unable to parse string as a number"
        return [error("float_parsing", loc, text, given)]
    return []


def _boolean(body: Body, name: str) -> list[dict[str, object]]:
    given, loc = body[name], f"body.{name}"
    if isinstance(given, bool):
        return []
    word = str(int(given)) if isinstance(given, float) and given.is_integer() else str(given).lower()
    if isinstance(given, list | dict):
        return [error("bool_type", loc, "Input should be a valid boolean", given)]
    if word not in _TRUE | _FALSE:
        return [error("bool_parsing", loc, "Input should be a valid boolean, unable to interpret input", given)]
    body[name] = word in _TRUE
    return []


def _messages(body: Body, name: str) -> list[dict[str, object]]:
    """vLLM lists every kind of message that a bad one is not; here it is the one complaint that says it."""
    errors = _list(body, name)
    for index, message in enumerate(body[name] if not errors else ()):
        loc = f"body.{name}.{index}"
        if not isinstance(message, dict):
            errors.append(error("dict_type", loc, "Input should be a valid dictionary", message))
        elif "role" not in message:
            errors.append(error("missing", f"{loc}.role", "Field required", message))
        elif not isinstance(message.get("content"), str | list | None):
            errors.append(error("string_type", f"{loc}.content", "Input should be a valid string", message["content"]))
    return errors


def _turns(body: Body, name: str) -> list[dict[str, object]]:
    """Messages as Anthropic's API has them."""
    errors = _messages(body, name)
    expected = "'user', 'assistant' or 'system'"
    for index, message in enumerate(body[name] if not errors else ()):
        if message["role"] not in ("user", "assistant", "system"):
            loc = f"body.{name}.{index}.role"
            row = error("literal_error", loc, f"Input should be {expected}", message["role"])
            errors.append(row | {"ctx": {"expected": expected}})
    return errors


_KINDS = {
    "string": _string,
    "list": _list,
    "object": _object,
    "strings": _strings,
    "prompt": _prompt,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "messages": _messages,
    "turns": _turns,
}
