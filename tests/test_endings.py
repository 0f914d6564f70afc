"""What an exception says of an end, as text that any exporter takes."""

import pytest

from experiment_hooks import endings, wire
from experiment_hooks.endings import error_info


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_any_exception_can_be_told() -> None:
    assert (
        error_info(UnprintableError()).message == "(the message could not be formatted)"
    )
    assert error_info(UnprintableError()).type.endswith("test_endings.UnprintableError")
    assert error_info(KeyError("x" * 10_000)).type == "KeyError"
    assert len(error_info(KeyError("x" * 10_000)).message) <= 2000
    wire.encode(wire.RunClosed("r", b"s" * 16, 1, 1.0, "failed", "", odd_error()))


def odd_error() -> wire.ErrorInfo:
    return error_info(ValueError("half \ud800"))


def test_of_a_long_traceback_the_end_is_kept() -> None:
    def fall(depth: int) -> None:
        if depth:
            other(depth - 1)
        raise ValueError("the end of it")

    def other(depth: int) -> None:
        fall(depth)

    with pytest.raises(ValueError, match="the end") as caught:
        fall(200)
    text = error_info(caught.value).traceback
    assert len(text) <= endings.MAX_TRACEBACK
    assert text.rstrip().endswith("ValueError: the end of it")
