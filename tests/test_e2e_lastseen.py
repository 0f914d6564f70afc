"""End to end: a run that fails, or is killed, while somebody watches; and a restart."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Callable, Dict, List

from PIL import Image

from tests.support import Exporter, Pythons, eventually
from tests.test_live_page import opened, shows, text_of

RUN = """
    import sys, time
    import numpy as np
    import experiment_hooks as eh

    def wait_for(name):
        while not os.path.exists(name):
            time.sleep(0.005)

    import os
    with eh.open_run("breaks", run_id="breaks") as run:
        for index in range(3):
            with run.episode(mode="eval", index=index, target="<b>mug</b>") as ep:
                run.publish_log("warning", "episode %d <i>begins</i>" % index)
                for step in range(1, 10**9):
                    ep.step(
                        state={"index": index, "step": step, "<u>x</u>": [1.5]},
                        scores={"left": 0.25, "right": -0.5},
                        images={"eye/<s>": np.full((4, 6, 3), (255, 0, 0), np.uint8)},
                    )
                    time.sleep(0.002)
                    if index < 2 and step == 50:
                        break
                    if index == 2 and os.path.exists("go"):
                        raise LookupError("no <b>sensor</b> 3")
                ep.finish("correct")
"""


def last_seen(exporter: Exporter) -> Dict[str, Any]:
    """What is kept with the run's one failed episode; "not yet" where there is none."""
    rows = [row for row in exporter.episodes("breaks") if row["last_seen"]]
    assert len(rows) == 1
    row = rows[0]
    base = f"/api/v1/runs/breaks/episodes/{row['trace_id']}/last_seen"
    found: Dict[str, Any] = exporter.get(base).json()
    for image in found["images"]:
        answer = exporter.get(f"{base}/eye%2F%3Cs%3E.png")
        assert answer.status == 200, image
        drawn = Image.open(io.BytesIO(answer.body))
        assert drawn.getpixel((5, 3)) == (255, 0, 0)
    return {**found, "row": row}


def check(found: Dict[str, Any]) -> None:
    assert (found["mode"], found["index"]) == ("eval", 2)
    assert found["target"] == "<b>mug</b>"
    assert found["state"]["index"] == 2
    assert found["state"]["step"] == found["step"]
    assert found["scores"] == {"left": 0.25, "right": -0.5}
    assert [one["name"] for one in found["images"]] == ["eye/<s>"]
    messages = [line["message"] for line in found["logs"]]
    assert messages == [f"episode {index} <i>begins</i>" for index in range(3)]


def watched(exporter: Exporter, page: Any) -> None:
    """Look at the run until its third episode's image is to be seen."""
    eventually(lambda: exporter.run("breaks"))
    opened(page, f"{exporter.web}/runs/breaks")
    shows(page, "#state", "index 2")
    image = page.locator("#images img")
    eventually(lambda: image.evaluate("image => image.naturalWidth") == 6)


def looks_right(page: Any, tmp_path: Path) -> None:
    block = page.locator("#last-seen")
    picture = block.locator("img")
    eventually(lambda: picture.evaluate("image => image.naturalWidth") == 6)
    text = text_of(page, "#last-seen")
    for part in ("Last seen eval episode 2", "<b>mug</b>", "index 2", "left 0.25"):
        assert part in text
    assert "episode 1 <i>begins</i>" in text
    assert block.locator("i, b, u, s").count() == 0
    page.screenshot(path=str(tmp_path / "page.png"), full_page=True)


def test_a_failed_episode_keeps_how_it_looked_while_watched_and_after_a_restart(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
    tmp_path: Path,
) -> None:
    exporter = exporter_process()
    child = run_python.start(RUN, env=exporter.env)
    watched(exporter, chromium_page)
    (tmp_path / "go").touch()
    assert child.wait() == 1
    shows(chromium_page, "#verdict", "failed")
    shows(chromium_page, "#error", "LookupError")
    looks_right(chromium_page, tmp_path)
    found = eventually(lambda: last_seen(exporter))
    check(found)
    # Its very last step, and not the one that was seen some time before.
    assert found["step"] == found["row"]["steps"]
    assert "no <b>sensor</b> 3" in found["row"]["error"]["message"]
    assert "LookupError" in found["row"]["error"]["traceback"]
    (source,) = exporter.run("breaks")["source_list"]
    assert source["error"]["type"] == "LookupError"
    assert console_errors == []

    exporter.restart()
    assert last_seen(exporter) == found
    chromium_page.goto(f"{exporter.web}/runs/breaks")
    looks_right(chromium_page, tmp_path)


def test_a_killed_source_keeps_how_it_looked_and_after_a_restart(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    tmp_path: Path,
) -> None:
    exporter = exporter_process("verdict.lost_seconds=0.5", "traces.lost_after=0.5")
    child = run_python.start(RUN, env=exporter.env)
    watched(exporter, chromium_page)
    child.kill()
    shows(chromium_page, "#verdict", "lost", 20)
    eventually(lambda: exporter.episodes("breaks")[-1]["outcome"] == "lost", 20)
    found = last_seen(exporter)
    check(found)
    assert found["row"]["error"]["type"] == "source_lost"
    shows(chromium_page, "#last-seen", "Last seen")
    looks_right(chromium_page, tmp_path)

    exporter.kill()
    exporter.restart()
    assert last_seen(exporter) == found


def test_while_nobody_watches_there_is_the_state_at_least(
    exporter_process: Callable[..., Exporter], run_python: Pythons, tmp_path: Path
) -> None:
    exporter = exporter_process()
    (tmp_path / "go").touch()
    run_python(RUN, env=exporter.env, status=1)
    found = eventually(lambda: last_seen(exporter))
    assert found["images"] == []
    assert (found["state"]["index"], found["state"]["step"]) == (2, 1)
    assert found["scores"] == {"left": 0.25, "right": -0.5}
