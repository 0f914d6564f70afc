"""Every page for everybody: axe-core finds nothing, in the light and in the dark."""

from contextlib import ExitStack
from typing import Any, Iterator, List

import pytest

from tests import support
from tests.support import Exporter, Pythons, eventually
from tests.test_live_episodes import RICH
from tests.test_live_moment import PACED
from tests.test_live_page import opened, shows

FAILED = """
    import experiment_hooks as eh
    with eh.open_run("broken", run_id="broken", stoppable=True) as run:
        with run.episode(mode="eval", target="mug") as ep:
            ep.step(state={"x": [1, 2]}, scores={"LM_0/mug": 0.5})
            with ep.phase("matching"):
                ep.event("moved", to="left")
            run.publish_log("error", "it broke")
            raise ValueError("the arm is stuck")
"""
MONTY = """
    from tests.monty_played import play
    play("five", 5, 0.5)
"""
WIDE, NARROW = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """An exporter that no run has come to."""
    exporter = Exporter(tmp_path_factory.mktemp("empty"))
    yield exporter.start()
    exporter.stop()


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """One with a run that failed, and three that go on; nothing here changes them."""
    directory = tmp_path_factory.mktemp("exporter")
    exporter = Exporter(directory, "live.trace_url='http://t/{trace_id}'")
    experiments = Pythons(directory, lambda _: None)
    with ExitStack() as at_the_end:
        at_the_end.callback(exporter.stop)
        at_the_end.callback(experiments.stop)
        exporter.start()
        experiments(FAILED, env=exporter.env, status=1)
        experiments.start(PACED, env=exporter.env)
        experiments.start(RICH, "stays", env=exporter.env)
        experiments.start(MONTY, env={**exporter.env, "PYTHONPATH": str(support.ROOT)})
        eventually(lambda: exporter.value("experiment_episodes_total", run="scores"))
        eventually(lambda: exporter.episodes("rich", "?outcome=open&mode=train"))
        eventually(lambda: exporter.run("five"))
        yield exporter


@pytest.fixture
def axe() -> Any:
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        support.require(False, "axe-playwright-python is not installed")
    return Axe()


# No style is for one width in one scheme alone, so two pairs have all that there is.
@pytest.fixture(params=[("light", WIDE), ("dark", NARROW)], ids=["wide", "narrow"])
def page(request: Any, chromium: Any) -> Iterator[Any]:
    scheme, (width, height) = request.param
    context = chromium.new_context(
        color_scheme=scheme,
        reduced_motion="reduce",
        viewport={"width": width, "height": height},
    )
    page = context.new_page()
    page.set_default_timeout(10_000 * support.PATIENCE)
    yield page
    context.close()


def test_axe_finds_nothing_on_any_page(
    empty: Exporter, exporter: Exporter, page: Any, axe: Any
) -> None:
    opened(page, empty.web)
    assert violations(axe, page) == [], "an empty list"

    opened(page, exporter.web)
    shows(page, "#runs", "failed")
    assert violations(axe, page) == [], "the list"
    opened(page, f"{exporter.web}/runs/broken")
    shows(page, "#error", "the arm is stuck")
    assert violations(axe, page) == [], "a run that failed"
    page.get_by_role("button", name="Delete this run…").click()
    assert violations(axe, page) == [], "asked once more"
    page.keyboard.press("Escape")
    opened(page, f"{exporter.web}/runs/scores")
    eventually(lambda: page.locator(".chart path.target").count())
    page.locator(".chart > svg").first.focus()
    page.keyboard.press("Home")
    eventually(page.locator(".tip").first.is_visible)
    unfold(page)
    assert violations(axe, page) == [], "a run that goes on"
    assert fits(page)


def test_axe_finds_nothing_on_the_pages_of_episodes_and_of_the_token(
    exporter: Exporter, page: Any, axe: Any
) -> None:
    (failed,) = exporter.episodes("rich", "?failed=1")
    (fine,) = exporter.episodes("rich", "?mode=eval&limit=1")
    (unfinished,) = exporter.episodes("rich", "?outcome=open")
    for path, heading in (
        ("/runs/rich/episodes", "Episodes"),
        ("/runs/rich/episodes?outcome=nothing", "Episodes"),
        (f"/runs/rich/episodes/{failed['trace_id']}", "eval episode 70"),
        (f"/runs/rich/episodes/{fine['trace_id']}", "eval episode 0"),
        (f"/runs/rich/episodes/{unfinished['trace_id']}", "train episode 120"),
        (f"/runs/rich/episodes/{'0' * 32}", "There is no episode"),
        ("/runs/nobody", "There is no run nobody"),
        ("/login", "This needs the token"),
        ("/runs/rich?token=guessed", "This needs the token"),
    ):
        page.goto(f"{exporter.web}{path}")
        shows(page, "h1", heading)
        unfold(page)
        assert violations(axe, page) == [], path
        assert fits(page), path


def test_axe_finds_nothing_on_the_page_of_a_monty(
    exporter: Exporter, page: Any, axe: Any
) -> None:
    opened(page, f"{exporter.web}/runs/five")
    shows(page, "#where", "LM_4")
    eventually(lambda: page.locator(".sensors img").count() == 12)
    assert violations(axe, page) == [], "folded"
    unfold(page)
    assert violations(axe, page) == [], "unfolded"
    assert fits(page)


def fits(page: Any) -> bool:
    """Whether nothing is wider than the page."""
    width: int = page.evaluate("document.documentElement.scrollWidth")
    return width <= page.viewport_size["width"]


def unfold(page: Any) -> None:
    page.evaluate(
        "document.querySelectorAll('details').forEach(one => one.open = true)"
    )


def violations(axe: Any, page: Any) -> List[str]:
    """What is wrong, and where: by WCAG 2.2 AA, and by what axe calls good practice."""
    found = axe.run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {node['html'][:300]} {node['failureSummary']}"
        for one in found
        for node in one["nodes"]
    ]
