"""Every error class has the shape of its path's family."""

import pytest

from gateway import errors
from policies import codec

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.GatewayError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_is_documented_and_shaped(cls: type[errors.GatewayError]) -> None:
    assert cls.code in (errors.__doc__ or "")
    error = cls("what and how to mend it", param="p")
    body = codec.decode(errors.error_body(error, "openai"))
    assert body == {"error": {"message": "what and how to mend it", "type": error.type, "param": "p", "code": cls.code}}
    assert set(codec.decode(errors.error_body(error, "anthropic"))) == {"type", "error"}
    assert codec.decode(errors.error_body(error, "triton")) == {"error": error.message}
    assert codec.decode(errors.error_body(error, "tgi")) == {"error": error.message, "error_type": cls.code}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (413, "invalid_request_error"),
        (431, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (502, "api_error"),
        (504, "api_error"),
    ],
)
def test_the_type_follows_from_the_status(status: int, kind: str) -> None:
    assert {cls("").type for cls in CLASSES if cls.status == status} == {kind}


def test_an_error_event_is_whole_and_never_followed_by_done() -> None:
    event = errors.error_event(errors.StreamBroken("gone"), "openai", named=False)
    assert event.startswith(b"data: {") and event.endswith(b"}\n\n") and b"DONE" not in event
    assert errors.error_event(errors.StreamBroken("gone"), "anthropic", named=True).startswith(
        b'event: error\ndata: {"type":"error"'
    )
