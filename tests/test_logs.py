"""``LogHandler``: the experiment's log lines reach its run, and never hurt it."""

import logging
import threading
from typing import Any, List

import pytest

import experiment_hooks as eh
from experiment_hooks import logs, wire
from experiment_hooks.testing import Listener


@pytest.fixture
def logger() -> logging.Logger:
    """A logger with one handler, which finds the current run by itself."""
    return alone(eh.LogHandler())


def alone(handler: logging.Handler) -> logging.Logger:
    """A logger that nobody else knows of, and so has no other handlers."""
    found = logging.Logger("app.part")  # noqa: LOG001 (so it has no parent either)
    found.addHandler(handler)
    return found


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(logs, "time", found)
    return found


def lines(listener: Listener) -> List[Any]:
    return listener.records(wire.LogLine)


def test_a_line_arrives_with_its_level_its_logger_and_its_time(
    listener: Listener, logger: logging.Logger
) -> None:
    with eh.open_run("mug"):
        logger.warning("no %s in %d", "mug", 5)
    (line,) = lines(listener)
    assert (line.level, line.message) == ("warning", "no mug in 5")
    assert line.logger == "app.part"
    assert abs(line.time - line_time()) < 60
    assert line.trace == ""


def line_time() -> float:
    return logging.LogRecord("x", 1, "x", 1, "x", (), None).created


def test_a_line_of_an_episode_has_its_trace_id(
    listener: Listener, logger: logging.Logger
) -> None:
    with eh.open_run("mug") as run, run.episode() as ep:
        logger.info("within")
        elsewhere = threading.Thread(target=logger.info, args=("elsewhere",))
        elsewhere.start()
        elsewhere.join(20)
    found = {line.message: line.trace for line in lines(listener)}
    assert found == {"within": ep.trace_id, "elsewhere": ""}


def test_levels_are_chosen_as_usual(listener: Listener, logger: logging.Logger) -> None:
    logger.handlers[0].setLevel(logging.WARNING)
    with eh.open_run("mug"):
        logger.info("quiet")
        logger.error("loud")
        logger.log(35, "odd")
    assert [line.level for line in lines(listener)] == ["error", "level 35"]


def test_without_a_run_or_after_its_end_nothing_happens(
    listener: Listener, logger: logging.Logger
) -> None:
    logger.info("before")
    run = eh.open_run("mug")
    logger.info("within")
    run.close()
    logger.info("after")
    assert [line.message for line in lines(listener)] == ["within"]
    assert run.dropped == {}


def test_a_handler_of_one_run_tells_that_one(listener: Listener) -> None:
    first, second = eh.open_run("first"), eh.open_run("second")
    alone(eh.LogHandler(first)).warning("x")
    second.close()
    first.close()
    (line,) = lines(listener)
    assert line.run == first.id


def test_an_exception_is_told_with_its_traceback(
    listener: Listener, logger: logging.Logger
) -> None:
    with eh.open_run("mug"):
        try:
            raise ValueError("no mug")
        except ValueError:
            logger.exception("it failed")
        logger.error("without one", exc_info=(None, None, None))
    told, without = lines(listener)
    assert told.message.startswith("it failed\nTraceback")
    assert told.message.endswith("ValueError: no mug")
    assert without.message == "without one"


def test_a_long_line_is_cut(listener: Listener, logger: logging.Logger) -> None:
    with eh.open_run("mug"):
        logger.info("x" * 10**6)
        logger.info("half \ud800")
    long, half = lines(listener)
    assert 4000 < len(long.message) <= 4096
    assert half.message == "half ?"


# --- how many ------------------------------------------------------------------------


def test_lines_are_bounded_in_rate_and_what_is_left_out_is_counted(
    listener: Listener, logger: logging.Logger, clock: Clock
) -> None:
    logger.handlers[0]._at = 0.0  # type: ignore[attr-defined]
    with eh.open_run("mug") as run:
        for number in range(1000):
            logger.info("%d", number)
        assert run.dropped == {"log_rate": 800}
        clock.now += 1.0
        for number in range(1000, 1100):
            logger.info("%d", number)
        assert run.dropped == {"log_rate": 850}
        clock.now += 3600.0
        for number in range(2000, 3000):
            logger.info("%d", number)
        assert run.dropped == {"log_rate": 850 + 800}
    assert [line.message for line in lines(listener)] == [
        str(n) for n in [*range(200), *range(1000, 1050), *range(2000, 2200)]
    ]


def test_the_rate_may_be_chosen(listener: Listener, clock: Clock) -> None:
    log = alone(eh.LogHandler(rate=1.0))
    with eh.open_run("mug") as run:
        for _ in range(201):
            log.warning("x")
        clock.now += 2.0
        for _ in range(5):
            log.warning("x")
        assert run.dropped == {"log_rate": 4}


# --- what must not happen ------------------------------------------------------------


def test_our_own_lines_do_not_come_back_to_us(listener: Listener) -> None:
    root, handler = logging.getLogger(), eh.LogHandler()
    root.addHandler(handler)
    try:
        with eh.open_run("mug") as run:
            run.counter("wins").inc(-1)
            logging.getLogger("experiment_hooks.part").warning("ours")
            logging.getLogger("experiment_hooks_of_mine").warning("yours")
    finally:
        root.removeHandler(handler)
    assert [line.logger for line in lines(listener)] == ["experiment_hooks_of_mine"]


class Chatty:
    """Logs while it is written out."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def __str__(self) -> str:
        self._logger.info("again: %s", self)
        return "chatty"


class Silent:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_line_that_logs_itself_ends(
    listener: Listener, logger: logging.Logger
) -> None:
    with eh.open_run("mug") as run:
        logger.info("%s", Chatty(logger))
        logger.info("still here")
        assert run.dropped.get("log_record", 0) >= 1
    assert [line.message for line in lines(listener)][-1] == "still here"


ODD_LINES: List[Any] = [
    ("%d %d", (1,)),
    ("%d", ("x",)),
    ("%s", (Silent(),)),
    (Silent(), ()),
]


@pytest.mark.parametrize("line", range(len(ODD_LINES)))
def test_a_line_that_cannot_be_formatted_is_counted(
    line: int,
    listener: Listener,
    logger: logging.Logger,
    capsys: pytest.CaptureFixture[str],
) -> None:
    message, arguments = ODD_LINES[line]
    with eh.open_run("mug") as run:
        logger.info(message, *arguments)
        logger.info("still here")
        assert run.dropped == {"log_record": 1}
    assert [line.message for line in lines(listener)] == ["still here"]
    assert capsys.readouterr().err == "", "logging's own complaint is not needed"


def test_lines_and_complaints_of_two_threads_do_not_wait_for_each_other(
    listener: Listener,
) -> None:
    """One holds the handler's lock and wants ours; the other must not want both.

    The complaint of the second is made while it holds the recorder's lock.
    """
    root, handler = logging.getLogger(), eh.LogHandler()
    root.addHandler(handler)
    run = eh.open_run("mug")
    try:
        series = run.counter("wins", labels=["n"])
        for number in range(2000):
            series.labels(number)

        def complain() -> None:
            for number in range(300):
                name = f"more{number}"
                run.counter(name, labels=["n"]).labels(number)  # one series too many

        def tell() -> None:
            for number in range(300):
                logging.getLogger("app").warning("%d", number)

        threads = [
            threading.Thread(target=work, daemon=True)
            for work in (complain, tell, complain, tell)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive(), "two threads wait for each other"
    finally:
        root.removeHandler(handler)
        run.close()


def test_a_handler_of_a_disabled_run_does_nothing(
    listener: Listener, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPISIGHT_DISABLED", "1")
    with eh.open_run("mug"):
        logger.info("x")
        logger.info("%d", "x")
    assert listener.heard() == []


def test_who_holds_a_handlers_lock_waits_for_no_sender(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """A sender that says something waits for the handler; its holder says so, too."""
    says = logging.getLogger("experiment_hooks")
    inside, waits, said = (threading.Event() for _ in range(3))

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "outer":
                inside.set()
                assert waits.wait(20)
                says.warning("inner")
                said.set()

        def filter(self, record: logging.LogRecord) -> Any:
            if threading.current_thread().name == "episight-sender":
                waits.set()  # its next step is the handler's lock
            return super().filter(record)

    handler = Handler()
    logging.getLogger().addHandler(handler)
    outer = threading.Thread(
        target=logging.getLogger("other").warning, args=("outer",), daemon=True
    )
    try:
        outer.start()
        assert inside.wait(20)
        with caplog.at_level(logging.INFO), eh.open_run("mug"):
            assert said.wait(20)
    finally:
        logging.getLogger().removeHandler(handler)
