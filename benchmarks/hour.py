"""An hour of looking at a page, in minutes: ``python -m benchmarks hour``.

Run by hand, from the checkout, on Linux with Chromium. Rules of this measurement:

- A page is sent ten updates a second at most, 36,000 an hour. Here the exporter and the
  hooks look as often as they can instead, and what counts are the updates that the page
  has patched in: state, scores, charts, images, episodes, log.
- After each share of them: the memory of the exporter's process, and, when garbage is
  collected, the page's JavaScript heap, its nodes and its listeners.
- Flat is what is no higher at the end than after the first tenth, when all that is
  bounded (the chart, the table, the log) is full.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.fleet import memory
from benchmarks.live import experiment
from benchmarks.table import machine, say, table
from tests.support import Exporter, chromium

AN_HOUR = 36_000
SHARES = 10
OFTEN = """
from exporter.live import hub
hub.TICK = 0.002
from exporter.__main__ import main
main()
"""
EXPERIMENT = """
import itertools, time
import numpy as np
from experiment_hooks import line
line.WATCHED_TICK = 0.004
import experiment_hooks as eh

depth = np.linspace(0, 4, 64 * 64, dtype="f4").reshape(64, 64)
objects = [f"object {n}" for n in range(20)]
with eh.open_run("hour", run_id="hour") as run:
    loss = run.gauge("loss")
    for number in itertools.count():
        target = objects[number % 20]
        with run.episode(mode="eval", index=number, target=target) as ep:
            for step in range(100):
                scores = {
                    f"LM_{lm}/{name}": (name == target) * step + len(name) * step % 9
                    for lm in range(2) for name in objects
                }
                state = {"step": step, "pose": {"x": step / 7, "at": [number, step]}}
                ep.step(state, scores, images={"depth": depth + step})
                loss.set(step / (number + 1))
                run.publish_data("sensors", [step, number])
                time.sleep(0.002)
            run.publish_log("info", f"episode {number} has ended", number=number)
            ep.finish("correct", results={"return": step / 3})
"""
COUNT = """
window.updates = 0;
const Plain = window.WebSocket;
window.WebSocket = class extends Plain {
  constructor(...all) {
    super(...all);
    this.addEventListener("message", () => (window.updates += 1));
  }
};
"""


def looked_at(updates: int) -> Iterator[list[object]]:
    """A row for each share of so many updates."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        exporter = Exporter(Path(directory), how=("-c", OFTEN)).start()
        try:
            with (
                experiment(exporter, EXPERIMENT, "hour"),
                sync_playwright() as playwright,
            ):
                browser = playwright.chromium.launch(
                    executable_path=chromium(),
                    args=["--no-sandbox", "--disable-gpu"],
                )
                page = browser.new_page()
                page.add_init_script(COUNT)
                page.goto(f"{exporter.web}/runs/hour")
                session = page.context.new_cdp_session(page)
                session.send("Performance.enable")
                for share in range(SHARES + 1):
                    wanted = updates * share / SHARES
                    page.wait_for_function(
                        "wanted => window.updates >= wanted", arg=wanted, timeout=0
                    )
                    yield _row(page, session, exporter.process.pid)
                browser.close()
        finally:
            exporter.stop()


def _row(page: Any, session: Any, pid: int) -> list[object]:
    session.send("HeapProfiler.collectGarbage")
    found = session.send("Performance.getMetrics")["metrics"]
    value = {one["name"]: one["value"] for one in found}
    return [
        f"{page.evaluate('window.updates'):,}",
        f"{memory(pid)[0]:.1f}",
        f"{value['JSHeapUsedSize'] / 2**20:.2f}",
        f"{value['Nodes']:,.0f}",
        f"{value['JSEventListeners']:,.0f}",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description="An hour of looking, in minutes.")
    parser.add_argument("--updates", type=int, default=AN_HOUR, metavar="N")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    options = parser.parse_args(arguments)
    say(machine("playwright"))
    say()
    if chromium() is None:
        say("Chromium is not installed")
        return
    head = ("updates", "exporter MB", "page's heap MB", "nodes", "listeners")
    table(head, looked_at(20 if options.tiny else options.updates))


if __name__ == "__main__":
    main()
