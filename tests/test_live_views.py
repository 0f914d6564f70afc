"""A view of one's own in a real exporter and a browser: the one of docs/views.md."""

import re
from pathlib import Path
from typing import Any, Callable, List

from tests.support import ROOT, Exporter, Pythons, eventually
from tests.test_live_page import opened, shows, text_of

SWINGING = """
    import math, sys, time
    import experiment_hooks as eh

    with eh.open_run(sys.argv[1], run_id=sys.argv[1]) as run, run.episode() as ep:
        for step in range(100_000):
            ep.step(state={"observation": [math.sin(step / 9), 0.5, 0.0, 0.0]})
            time.sleep(0.01)
"""


def example() -> List[str]:
    """The files of the page, in its order."""
    text = (ROOT / "docs" / "views.md").read_text()
    return re.findall(r"```(?:python|html)\n(.*?)```", text, re.DOTALL)


def test_the_example_draws_something_of_its_own_and_mistakes_are_told(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "views"
    folder.mkdir()
    code, template = example()
    (folder / "arm_view.py").write_text(code)
    (folder / "arm.html").write_text(template)
    views = f"arm: {{match: 'q_*', templates: {folder}, _target_: arm_view.Arm}}"
    env = {"PYTHONPATH": f"{folder}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    exporter = exporter_process(f"live.views={{{views}}}", env=env)
    for name in ("q_arm", "other"):
        run_python.start(SWINGING, name, env=exporter.env)
        eventually(lambda name=name: exporter.run(name))
    page = chromium_page
    opened(page, f"{exporter.web}/runs/q_arm")
    arm = page.locator("#own section", has_text="Arm").locator("polyline")
    eventually(lambda: arm.count() == 1)
    points = arm.get_attribute("points")
    eventually(lambda: arm.get_attribute("points") != points)
    assert text_of(page, "#view-notices") == ""
    assert "observation" in text_of(page, "#state"), "what is not replaced is ours"

    # Other runs are drawn as ever.
    opened(page, f"{exporter.web}/runs/other")
    shows(page, "#state", "observation")
    assert page.locator("#own section").count() == 0

    # A mistake in it is told, with file and line, at the next load.
    (folder / "arm.html").write_text("<p>\n{{ nobody }}</p>")
    opened(page, f"{exporter.web}/runs/q_arm")
    shows(page, "#view-notices", "arm.html, line 2")
    shows(page, "#view-notices", "'nobody' is undefined")
    shows(page, "#state", "observation")
    (folder / "arm.html").write_text("<p>mended</p>")
    opened(page, f"{exporter.web}/runs/q_arm")
    shows(page, "#own", "mended")

    # So is one in a document; what takes too long is skipped.
    (folder / "run.html").write_text(
        '{% extends "episight/run.html" %}\n{% block log %}{{ nobody }}{% endblock %}'
    )
    (folder / "arm_view.py").write_text(
        code.replace(
            "        if not", "        math.fsum(range(3_000_000))\n        if not"
        )
    )
    opened(page, f"{exporter.web}/runs/q_arm")
    shows(page, "#view-notices", "run.html, line 2")
    shows(page, "#view-notices", "50 are allowed")
    assert page.locator("#own section").count() == 0
    shows(page, "#state", "observation")
    (folder / "run.html").write_text(
        '{% extends "episight/run.html" %}{% block log %}{% endblock %}'
    )
    opened(page, f"{exporter.web}/runs/q_arm")
    shows(page, "#state", "observation")
    assert page.locator("#log").count() == 0, "the section is taken away"
    assert console_errors == []
