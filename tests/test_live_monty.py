"""A Monty's page in a browser, of a real exporter, with states as hooks send them."""

from pathlib import Path
from typing import Any, Callable, Dict, List, Set, Tuple

import pytest

from tests.support import ROOT, Exporter, Pythons, eventually
from tests.test_live_page import PACED, opened, shows, text_of

PLAYED = """
    import sys
    from tests.monty_played import play
    play("monty", int(sys.argv[1]), 0.05)
"""
MINE = """
from exporter.live.custom import View

class Mine(View):
    def draw(self, seen):
        return {"where": "mine: " + seen.state["phase"]}
"""
PLACES = "#where .beliefs, #where .modules, #where .senses, #where .sensors li, #scores"


def started(run_python: Pythons, exporter: Exporter, modules: int) -> None:
    env = {**exporter.env, "PYTHONPATH": str(ROOT)}
    run_python.start(PLAYED, str(modules), env=env)
    eventually(lambda: exporter.run("monty"))


@pytest.mark.parametrize("modules", [1, 5])
def test_a_monty_is_seen_at_a_glance_and_nothing_jumps(
    modules: int,
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
) -> None:
    exporter = exporter_process()
    started(run_python, exporter, modules)
    run_python.start(PACED, env=exporter.env)
    page = chromium_page
    opened(page, f"{exporter.web}/runs/monty")
    shows(page, "#where", f"LM_{modules - 1}")
    assert "Modules that are right" in text_of(page, "#where") or modules == 1
    assert text_of(page, "#view-notices") == ""

    # Colour and depth of each sensor, and they move.
    pictures = page.locator(".sensors img")
    eventually(lambda: pictures.count() == 2 * max(2, modules + 1))
    assert page.locator("#images img").count() == 0, "they are shown once"
    source = pictures.first.get_attribute("src")
    eventually(lambda: pictures.first.get_attribute("src") != source)
    loaded = "found => found.every(one => one.naturalWidth === 64)"
    eventually(lambda: pictures.evaluate_all(loaded))

    # Each place stays where it is, over the end of an episode too.
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert moved(page) == {}
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    # The charts stay, and the raw state is a click away.
    assert page.locator(".chart").count() == modules
    page.locator("#state summary").first.click()
    shows(page, "#state", "known_objects")

    opened(page, f"{exporter.web}/runs/paced")
    shows(page, "#state", "pose")
    assert page.locator(".monty").count() == 0, "other runs are drawn as ever"
    assert console_errors == []


def moved(page: Any) -> Dict[int, Any]:
    """What did not stay in its place over some steps of two episodes, and where."""
    steps: Set[Tuple[str, ...]] = set()
    tops: Dict[int, Set[float]] = {}

    def looked() -> bool:
        found = page.evaluate(
            """places => {
              const zero = document.querySelector("#where").getBoundingClientRect().top;
              const all = (places) => [...document.querySelectorAll(places)];
              const now = all("#where .now dd").map(one => one.innerText);
              const tops = all(places).map(one => one.getBoundingClientRect().top);
              const found = tops.map((top, n) => [n, Math.round(top - zero)]);
              return [now.slice(3, 5), found];
            }""",
            PLACES,
        )
        steps.add(tuple(found[0]))  # episode and step
        for place, top in found[1]:
            tops.setdefault(place, set()).add(top)
        return len(steps) >= 12 and len({episode for episode, _ in steps}) > 1

    eventually(looked, 30)
    return {place: found for place, found in tops.items() if len(found) > 1}


def test_a_users_own_view_of_that_name_takes_its_place(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    tmp_path: Path,
) -> None:
    (tmp_path / "mine_view.py").write_text(MINE)
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    view = "{monty: {match: monty, _target_: mine_view.Mine}}"
    exporter = exporter_process(env={**env, "EPISIGHT_LIVE_VIEWS": view})
    started(run_python, exporter, 1)
    opened(chromium_page, f"{exporter.web}/runs/monty")
    shows(chromium_page, "#where", "mine: ")
    assert chromium_page.locator(".monty").count() == 0
    shows(chromium_page, "#state", "learning_modules")
