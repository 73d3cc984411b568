"""Tokens and texts are made from the prompt alone, and hold what streams get wrong."""

from hypothesis import given
from hypothesis import strategies as st

from backends.simulator import words
from backends.simulator.call import SimulatedCall
from backends.simulator.generation import Choice, GenerationLimits, generate

LIMITS = GenerationLimits(natural=40, context=1000)


def test_there_is_a_piece_for_every_index() -> None:
    assert len(words.PIECES) == 64
    assert {len(character.encode()) for piece in words.PIECES for character in piece} == {1, 2, 3, 4}
    assert "" not in words.PIECES


@given(st.text())
def test_tokens_give_the_text_back(text: str) -> None:
    tokens = words.tokenize(text)
    assert words.detokenize(tokens) == text
    assert words.count(text) == max(1, len(tokens))


@given(st.text(), st.integers(0, 5))
def test_answer_is_the_same_for_the_same_prompt(prompt: str, index: int) -> None:
    one = generate(prompt, 5, SimulatedCall(limit=None), LIMITS, index)
    assert one == generate(prompt, 5, SimulatedCall(limit=None), LIMITS, index)
    assert one.tokens == len(one.texts) == 40
    assert one.text and one.texts[0] != ""


@given(st.text(), st.integers(0, 200), st.integers(1, 12))
def test_stop_string_is_never_in_the_answer(prompt: str, at: int, size: int) -> None:
    whole = generate(prompt, 5, SimulatedCall(limit=None), LIMITS)
    stop = whole.text[at % len(whole.text) :][:size]
    cut = generate(prompt, 5, SimulatedCall(limit=None, stop=(stop, "never there")), LIMITS)
    assert isinstance(cut, Choice)
    assert stop not in cut.text and whole.text.startswith(cut.text + stop)
    assert (cut.stop, cut.finish_reason) == (stop, "stop")
    assert cut.tokens == len(cut.texts) <= whole.tokens
    assert "".join(whole.texts[: cut.tokens]).startswith(cut.text + stop)
