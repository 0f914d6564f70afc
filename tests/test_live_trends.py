"""How a run went lately, on its page in a real browser: pace, charts, metrics."""

import re
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any, Callable, List, Tuple

from tests.support import Exporter, Pythons, eventually
from tests.test_live_page import opened, same_document, shows, text_of

PACED = """
    import time
    import experiment_hooks as eh

    due = 0.0
    with eh.open_run("paced", run_id="paced", success={"good"},
                     expected_steps={"train": 1_000_000}) as run:
        loss = run.gauge("loss", help="How wrong it is.")
        points = run.counter("points", labels=["side"])
        took = run.histogram("thinking_seconds", buckets=[0.1, 1.0])
        for number in range(100_000):
            with run.episode(mode="train") as ep:
                for step in range(50):
                    now = time.monotonic()
                    # What a loaded machine held up is not made up for in a hurry.
                    due = due + 0.02 if due + 0.04 > now else now
                    time.sleep(max(0.0, due - now))
                    ep.step()
                    loss.set(1.0 / (1.0 + number))
                    points.labels(side="left").inc(2)
                    took.observe(0.25)
                    if step % 10 == 0:
                        print("AT", now, 50 * number + step, flush=True)
                ep.finish(outcome=("good", "bad")[number % 2],
                          results={"return": float(number)})
"""


def test_steps_per_second_are_right_from_the_first_moment_of_a_page(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    child = run_python.start(PACED, env=exporter.env)
    page = chromium_page
    opened(page, exporter.web)
    # Nobody looks at the run itself yet, so its samples come once a second.
    shows(page, "#runs", "steps/s", 20)
    page.goto(f"{exporter.web}/runs/paced")
    seen: List[str] = page.evaluate(
        """() => new Promise(done => {
            const seen = [document.getElementById("modes").textContent];
            const look = () => seen.push(document.getElementById("modes").textContent);
            new MutationObserver(look).observe(document.getElementById("modes"),
                {subtree: true, childList: true, characterData: true});
            setTimeout(() => done(seen), 12000);
        })"""
    )
    found = [re.search(r"Steps/s\s*([\d.]+)", text) for text in seen]
    assert None not in found
    rates = [float(one[1]) for one in found if one]
    assert len(rates) > 5  # steps count up meanwhile
    # A loaded machine may hold up the experiment, and now and then whoever counts
    # its steps.
    slowest, fastest = paces(child.output)
    wrong = [rate for rate in rates if not slowest - 2.0 < rate < fastest + 2.0]
    assert len(wrong) <= len(rates) / 5, (rates, slowest, fastest)
    assert "left" in text_of(page, "#modes")


def paces(output: str) -> Tuple[float, float]:
    """The fewest and the most steps a second that were taken in any 1 to 10 seconds."""
    found = re.findall(r"AT ([\d.]+) (\d+)\n", output)
    told = [(float(at), int(steps)) for at, steps in found]
    rates = [
        (steps - before) / (at - since)
        for (since, before), (at, steps) in combinations(told, 2)
        if 1.0 <= at - since <= 10.0
    ]
    return min(rates), max(rates)


def test_when_a_mode_will_be_done_is_said_by_the_readers_own_clock(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium: Any
) -> None:
    exporter = exporter_process()
    code = """
        import time
        import experiment_hooks as eh
        expected = {"train": 10_000, "eval": 10_000_000}
        with eh.open_run("long", run_id="long", expected_episodes=expected) as run:
            while True:
                for mode in expected:
                    with run.episode(mode=mode) as ep:
                        ep.step()
                        time.sleep(0.02)
    """
    run_python.start(code, env=exporter.env)
    eventually(lambda: exporter.run("long"))
    page = chromium.new_context(timezone_id="Asia/Kathmandu").new_page()
    opened(page, f"{exporter.web}/runs/long")

    for mode, left, day in [("train", "min.*", "({} )?"), ("eval", r"d \d+ h", "{} ")]:
        card = page.get_by_label(f"Mode {mode}")
        eta = card.locator(".eta", has=page.locator("time"))
        eventually(lambda eta=eta: eta.count() == 1, 20)
        said, at = eta.evaluate("e => [e.innerText, e.querySelector('time').dateTime]")
        there = datetime.fromisoformat(at) + timedelta(hours=5, minutes=45)
        when = day.format(f"{there:%Y-%m-%d}") + f"{there:%H:%M}"
        assert re.fullmatch(rf"about \d+ {left} left, {when}", said.strip()), said
    page.context.close()


def test_a_page_has_small_charts_that_change_calmly(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
) -> None:
    exporter = exporter_process()
    run_python.start(PACED, env=exporter.env)
    eventually(lambda: exporter.run("paced"))
    page = chromium_page
    opened(page, f"{exporter.web}/runs/paced")
    shows(page, "#metrics", "thinking_seconds", 20)
    shows(page, "#metrics", "0.25 0.25")
    shows(page, "#metrics", "/s now", 20)
    assert "points" in text_of(page, "#metrics")
    assert 'side="left"' in text_of(page, "#metrics")
    shows(page, "#trends", "Steps per second")
    shows(page, "#trends", "Success 50 %", 20)
    shows(page, "#trends", "return")
    line = page.locator("#trends .spark .line").first
    eventually(lambda: line.evaluate("line => line.getTotalLength()") > 0)
    # After its first seconds a point comes each 5 s, and nothing is sent in between.
    eventually(lambda: exporter.run("paced")["modes"]["train"]["steps"] > 600, 30)
    changes = page.evaluate(
        """() => new Promise(done => {
            let changes = 0;
            new MutationObserver(() => changes++).observe(
                document.getElementById("metrics"),
                {subtree: true, childList: true, attributes: true});
            setTimeout(() => done(changes), 11000);
        })"""
    )
    assert 1 <= changes <= 3
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert same_document(page)
    assert console_errors == []


def test_what_a_run_came_to_lately_is_there_when_it_has_ended(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    code = """
        import experiment_hooks as eh
        with eh.open_run("short", run_id="short", success={"good"}) as run:
            for number in range(120):
                with run.episode() as ep:
                    ep.step()
                    ep.finish("good" if number % 4 else "bad", {"return": number})
    """
    run_python(code, env=exporter.env)
    opened(chromium_page, f"{exporter.web}/runs/short")
    shows(chromium_page, "#trends", "Success 75 % of the last 100 episodes")
    shows(chromium_page, "#trends", "return 119")
    assert "Steps per second" not in text_of(chromium_page, "#trends")
    assert not chromium_page.locator("#h-metrics").is_visible()
