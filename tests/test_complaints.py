"""Complaints: each offender is named, and nobody can fill the log."""

from __future__ import annotations

import logging

import pytest

from exporter.complaints import MAX_A_MINUTE, MAX_OFFENDERS, Complaints


class Said:
    """Complaints with a clock in hand, and what they logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.now = 0.0
        self.complaints = Complaints(logging.getLogger("exporter"), lambda: self.now)
        self._caplog = caplog

    def say(self, who: str, times: int = 1) -> list[str]:
        self._caplog.clear()
        for _ in range(times):
            self.complaints.say("rejected: malformed", who, "no number")
        return [record.getMessage() for record in self._caplog.records]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Said:
    return Said(caplog)


def test_an_offender_is_named_each_time_he_has_done_it_twice_as_often(
    said: Said,
) -> None:
    lines = said.say("node-1", times=1000)
    assert len(lines) == 10
    assert lines[0] == "rejected: malformed (1 so far of node-1): no number"
    assert "(512 so far of node-1)" in lines[-1]


def test_who_comes_after_a_loud_one_is_named_too(said: Said) -> None:
    said.say("loud", times=100_000)
    said.now += 60
    assert "1 so far of quiet" in said.say("quiet")[-1]


def test_many_offenders_fill_no_log(said: Said) -> None:
    lines = [line for n in range(3 * MAX_OFFENDERS) for line in said.say(f"node-{n}")]
    assert len(lines) == MAX_A_MINUTE
    said.now += 60
    first, second = said.say("another")
    left_out = 3 * MAX_OFFENDERS - MAX_A_MINUTE
    assert first == f"{left_out} more complaints were not logged"
    assert "of another" in second
