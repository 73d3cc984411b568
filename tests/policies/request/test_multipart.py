"""Forms: the fields that every parser reads alike are found, whatever parsers could read differently is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.json_object import RefusedBody
from policies.request.describe import DescribedRequest, describe, rewrite_model
from policies.request.multipart import MAX_PARTS, boundary_of, fields_of, replace_field

TYPE = b"multipart/form-data; boundary=B"


def part(disposition: str, value: bytes = b"", *more: str) -> bytes:
    head = "\r\n".join([f"Content-Disposition: {disposition}", *more])
    return b"--B\r\n" + head.encode() + b"\r\n\r\n" + value + b"\r\n"


def text(name: str, value: str) -> bytes:
    return part(f'form-data; name="{name}"', value.encode())


FILE = part('form-data; name="file"; filename="a;b.wav"', b"RIFF\r\n--\r\n\0\xff--B", "Content-Type: audio/wav")
END = b"--B--\r\n"


def refusal(body: bytes, content_type: bytes | None = TYPE) -> RefusedBody:
    with pytest.raises(RefusedBody) as caught:
        describe(body, "form", content_type=content_type)
    return caught.value


@pytest.mark.parametrize("end", [b"--B--", b"--B--\r\n", b"--B--\r\n\r\n"])
def test_a_form_names_its_model_wherever_it_stands(end: bytes) -> None:
    assert describe(FILE + text("model", "whisper-1") + end, "form", content_type=TYPE) == DescribedRequest("whisper-1")
    assert describe(text("model", "whisper-1") + FILE + end, "form", content_type=TYPE) == DescribedRequest("whisper-1")


@pytest.mark.parametrize(
    ("word", "means"), [("true", True), ("True", True), ("1", True), ("false", False), ("0", False)]
)
def test_stream_is_one_of_the_words_for_a_boolean(word: str, means: bool) -> None:
    body = text("model", "m") + text("stream", word) + text("stream_include_usage", word) + END
    call = describe(body, "form", content_type=TYPE)
    assert (call.stream, call.include_usage) == (means, means)


@pytest.mark.parametrize("word", ["", "maybe", "2", "tru\0e"])
def test_any_other_word_is_refused(word: str) -> None:
    assert refusal(text("model", "m") + text("stream", word) + END).param == "stream"


def test_engine_fields_are_seen_in_forms_too() -> None:
    body = text("model", "m") + text("vllm_xargs", "{}") + END
    assert describe(body, "form", content_type=TYPE).fields == {"vllm_xargs"}


@pytest.mark.parametrize("name", ["model", "stream", "vllm_xargs"])
def test_a_field_that_is_read_comes_once(name: str) -> None:
    caught = refusal(text("model", "true") + text(name, "true") + text(name, "true") + END)
    assert caught.code == "invalid_request" and "twice" in caught.message


def test_other_fields_may_be_repeated() -> None:
    body = (
        text("timestamp_granularities[]", "word")
        + text("timestamp_granularities[]", "segment")
        + text("model", "m")
        + END
    )
    assert describe(body, "form", content_type=TYPE).model == "m"


def test_a_model_that_is_a_file_is_refused() -> None:
    assert refusal(part('form-data; name="model"; filename="m"', b"m") + END).param == "model"


@pytest.mark.parametrize("value", [b"", b"\xff", b"a\r\nb", b"m" * 257, b"m" * 100_000])
def test_a_model_in_a_form_is_held_to_the_same_rules(value: bytes) -> None:
    assert refusal(part('form-data; name="model"', value) + END).param == "model"


def test_a_missing_model_is_refused() -> None:
    assert refusal(text("language", "en") + END).param == "model"
    assert refusal(END).param == "model"


M = text("model", "m")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"preamble\r\n" + M + END,
        b"\r\n" + M + END,
        M,
        M + b"--B",
        M + b"--B \r\n" + M[5:] + END,
        M + END + M,
        M + END + b"epilogue",
        M.replace(b"\r\n", b"\n") + END,
        b"--B\r\nContent-Disposition: form-data; name=model\r\n\r\n--B--\r\n",
        part('form-data; name="model"', b"m", "Content-Disposition: form-data; name=x") + END,
        part("form-data; name=model; name=x", b"m") + END,
        part("form-data; name=x; name*=utf-8''model", b"m") + END,
        part('form-data; name="mod\\el"', b"m") + END,
        part('form-data; name="model', b"m") + END,
        part('attachment; name="model"', b"m") + END,
        part('form-data; filename="x"', b"m") + END,
        part('form-data;\r\n name="model"', b"m") + END,
        part('form-data; name="model"', b"m", "Content-Transfer-Encoding: base64") + END,
        part('form-data; name="model"', b"m", "no header") + END,
        b"--B\r\n\r\nm\r\n" + END,
        b"--B\r\nContent-Disposition : form-data; name=model\r\n\r\nm\r\n" + END,
        b'--B\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nm\r\n' + END,
        part('form-data; name="model"', b"m", "x: " + "y" * 5000) + END,
        M + text("x", "y") * MAX_PARTS + END,
    ],
)
def test_what_parsers_could_read_differently_is_refused(body: bytes) -> None:
    caught = refusal(body)
    assert caught.code == "invalid_request" and "malformed" in caught.message


@pytest.mark.parametrize(
    "content_type", [None, b"", b"application/json", b"multipart/mixed; boundary=B", b"multipart/form-datax"]
)
def test_another_content_type_is_415(content_type: bytes | None) -> None:
    assert refusal(M + END, content_type).code == "unsupported_media_type"


@pytest.mark.parametrize(
    "parameters",
    [
        b"",
        b"; boundary=",
        b'; boundary=""',
        b"; boundary=B; boundary=C",
        b'; boundary="B ',
        b"; boundary=B, x",
        b'; boundary="' + b"B" * 71 + b'"',
    ],
)
def test_a_doubtful_boundary_is_refused(parameters: bytes) -> None:
    assert refusal(M + END, b"multipart/form-data" + parameters).code == "invalid_request"


def test_a_charset_other_than_utf8_is_refused() -> None:
    assert boundary_of(TYPE + b"; charset=UTF-8") == b"B"
    assert refusal(M + END, TYPE + b"; charset=utf-16").code == "unsupported_media_type"


@pytest.mark.parametrize("content_type", [b'Multipart/Form-Data;boundary="B"', b"multipart/form-data ; Boundary=B ;"])
def test_a_boundary_may_be_quoted_and_names_are_case_insensitive(content_type: bytes) -> None:
    assert describe(M + END, "form", content_type=content_type).model == "m"


def test_another_model_is_written_over_the_first_ones_bytes_alone() -> None:
    head, tail = text("a", "model") + b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\n', b"\r\n" + END
    assert rewrite_model(head + b"old" + tail, "new", "form", TYPE) == head + b"new" + tail
    with pytest.raises(KeyError):
        replace_field(M + END, TYPE, "x", "y")
    with pytest.raises(RefusedBody):
        replace_field(M + END, TYPE, "model", "x\r\n--B--")


@given(st.lists(st.tuples(st.sampled_from(["model", "file", "x", "y[]"]), st.binary(max_size=20)), max_size=5))
def test_a_forms_values_are_found_where_they_stand(pairs: list[tuple[str, bytes]]) -> None:
    body = b"".join(part(f'form-data; name="{name}"', value) for name, value in pairs) + END
    if sum(name == "model" for name, _ in pairs) > 1:
        with pytest.raises(RefusedBody):
            fields_of(body, TYPE)
    else:
        assert {name: bytes(value) for name, value in fields_of(body, TYPE).items()} == dict(pairs)


def test_a_form_of_a_mebibyte_is_searched_at_memory_speed() -> None:
    body = part('form-data; name="file"; filename="a"', b"\r\n--A" * 200_000) + M + END
    assert describe(body, "form", content_type=TYPE).model == "m"
