"""Every page for everybody: axe-core finds nothing, in the light and in the dark."""

from typing import Any, Callable, Iterator, List, Tuple

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
    play("five", 5, 0.05)
"""
WIDE, NARROW = (1280, 900), (390, 844)


@pytest.fixture
def axe() -> Any:
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        support.require(False, "axe-playwright-python is not installed")
    return Axe()


@pytest.fixture(params=["light", "dark"])
def page(request: Any, chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(color_scheme=request.param, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(10_000)
    yield page
    context.close()


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_nothing_on_any_page(
    size: Tuple[int, int],
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    page: Any,
    axe: Any,
) -> None:
    exporter = exporter_process()
    page.set_viewport_size({"width": size[0], "height": size[1]})
    opened(page, exporter.web)
    assert violations(axe, page) == [], "an empty list"
    run_python(FAILED, env=exporter.env, status=1)
    run_python.start(PACED, env=exporter.env)
    eventually(lambda: exporter.value("experiment_episodes_total", run="scores"))

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
    for fold in page.locator("details:not([open]) > summary").all():
        fold.evaluate("summary => { summary.parentElement.open = true; }")
    assert violations(axe, page) == [], "a run that goes on"
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_nothing_on_the_pages_of_episodes_and_of_the_token(
    size: Tuple[int, int],
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    page: Any,
    axe: Any,
) -> None:
    exporter = exporter_process("live.trace_url='http://t/{trace_id}'")
    page.set_viewport_size({"width": size[0], "height": size[1]})
    run_python.start(RICH, "stays", env=exporter.env).wait_for("open")
    is_open = "?outcome=open"
    eventually(
        lambda: [one["index"] for one in exporter.episodes("rich", is_open)] == [120]
    )
    eventually(lambda: exporter.episodes("rich", "?failed=1"))
    (failed,) = exporter.episodes("rich", "?failed=1")
    (fine,) = exporter.episodes("rich", "?mode=eval&limit=1")
    (unfinished,) = exporter.episodes("rich", is_open)
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
        for fold in page.locator("details:not([open]) > summary").all():
            fold.evaluate("summary => { summary.parentElement.open = true; }")
        assert violations(axe, page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], path


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_nothing_on_the_page_of_a_monty(
    size: Tuple[int, int],
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    page: Any,
    axe: Any,
) -> None:
    exporter = exporter_process()
    page.set_viewport_size({"width": size[0], "height": size[1]})
    env = {**exporter.env, "PYTHONPATH": str(support.ROOT)}
    run_python.start(MONTY, env=env)
    eventually(lambda: exporter.run("five"))
    opened(page, f"{exporter.web}/runs/five")
    shows(page, "#where", "LM_4")
    eventually(lambda: page.locator(".sensors img").count() == 12)
    assert violations(axe, page) == [], "folded"
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert violations(axe, page) == [], "unfolded"
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def violations(axe: Any, page: Any) -> List[str]:
    """What is wrong, and where: by WCAG 2.2 AA, and by what axe calls good practice."""
    found = axe.run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {node['html'][:300]} {node['failureSummary']}"
        for one in found
        for node in one["nodes"]
    ]
