"""The episodes' pages in a real browser, of a real exporter, with a real experiment."""

import csv
import io
import json
from typing import Any, Callable, List

from tests.support import Exporter, Pythons, eventually
from tests.test_live_page import shows, text_of

RICH = """
    import sys, time
    import experiment_hooks as eh

    with eh.open_run("rich", run_id="rich", success={"correct"}) as run:
        for number in range(120):
            outcome = "correct" if number % 10 else "confused"
            try:
                with run.episode(mode="eval", epoch=number // 50, index=number,
                                 target="mug", seed=number) as ep:
                    with ep.phase("exploring"):
                        ep.step(state={"n": number}, scores={"mug": 0.5, "bowl": 0.25})
                    with ep.phase("matching"):
                        ep.step(scores={"LM_0/mug": 1.5, "LM_0/bowl": 0.5})
                    ep.event("saccade", amplitude=0.25)
                    if number == 70:
                        run.publish_log("warning", "it slips")
                        raise ValueError("it fell")
                    ep.finish(outcome, results={"return": number / 4}, grip="pinch")
            except ValueError:
                pass
        if "stays" in sys.argv:
            with run.episode(mode="train", index=120, target="spoon") as ep:
                print("open", flush=True)
                while True:
                    with ep.phase("waiting"):
                        time.sleep(0.02)
                        ep.step()
"""


def rows(page: Any) -> List[int]:
    return [
        int(one) for one in page.locator("tbody td:nth-child(3) a").all_inner_texts()
    ]


def test_one_filters_pages_through_opens_an_episode_and_goes_to_the_one_before(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
) -> None:
    exporter = exporter_process("live.trace_url='http://t/{trace_id}'")
    run_python(RICH, env=exporter.env)
    eventually(lambda: len(exporter.indices("rich")) == 120)
    page = chromium_page
    page.goto(f"{exporter.web}/runs/rich")
    page.get_by_role("link", name="All episodes").click()
    page.wait_for_url("**/runs/rich/episodes")
    assert rows(page) == [*range(119, 69, -1)]
    page.get_by_role("link", name="Older").click()
    page.wait_for_url("**before=*")
    assert rows(page) == [*range(69, 19, -1)]

    page.get_by_label("Outcome").select_option("confused")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**outcome=confused**")
    assert "11 of 120 episodes match" in text_of(page, ".heading")
    assert rows(page) == [n for n in range(110, -1, -10) if n != 70]
    page.get_by_role("link", name="show all").click()
    page.wait_for_url("**/runs/rich/episodes")
    page.get_by_label("with an error").check()
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**failed=1**")
    assert rows(page) == [70]

    page.get_by_role("link", name="70", exact=True).click()
    shows(page, "h1", "eval episode 70")
    assert "error" in text_of(page, ".title .badge")
    assert "ValueError it fell" in text_of(page, ".error")
    seen = text_of(page, "#last-seen")
    assert "n 70" in seen
    assert "it slips" in seen
    lanes = text_of(page, ".lanes")
    assert "exploring" in lanes
    assert "matching" in lanes
    assert "amplitude 0.25" in text_of(page, "#main")
    trace = page.locator(".facts a[href^='http://t/']").get_attribute("href")
    assert trace.split("/")[-1] == page.url.split("/")[-1]

    page.get_by_role("link", name="← 69").click()
    shows(page, "h1", "eval episode 69")
    assert "LM_0 mug target 1.5 bowl 0.5" in text_of(page, ".finals")
    assert "return 17.25" in text_of(page, ".results")
    assert console_errors == []
    page.get_by_role("link", name="JSON").click()
    found = json.loads(page.locator("pre").inner_text())
    assert (found["index"], found["attributes"]) == (69, {"grip": "pinch"})
    assert [one["name"] for one in found["phases"]] == ["exploring", "matching"]


def test_the_files_are_saved_with_all_that_the_filter_finds(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    run_python(RICH, env=exporter.env)
    eventually(lambda: len(exporter.indices("rich")) == 120)
    page = chromium_page
    page.goto(f"{exporter.web}/runs/rich/episodes?outcome=correct")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "rich-episodes.csv"
    text = download.value.path().read_text(encoding="utf-8")
    found = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["index"]) for row in found] == [n for n in range(120) if n % 10]
    assert found[0]["score_LM_0/mug"] == "1.5"
    with page.expect_download() as download:
        page.get_by_role("link", name="JSON").click()
    assert download.value.suggested_filename == "rich-episodes.json"
    episodes = json.loads(download.value.path().read_text())["episodes"]
    assert len(episodes) == 108


def test_they_need_no_script_and_no_token_but_where_reading_needs_it(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium: Any
) -> None:
    exporter = exporter_process("security.token_reading=true")
    run_python(RICH, env=exporter.env)
    page = chromium.new_context(java_script_enabled=False).new_page()
    page.goto(f"{exporter.web}/runs/rich/episodes?outcome=confused")
    shows(page, "h1", "This needs the token")
    assert (
        page.locator("link[rel=stylesheet]").get_attribute("href").startswith("../../")
    )
    page.goto(
        f"{exporter.web}/runs/rich/episodes?outcome=confused&token={exporter.token}"
    )
    assert "token" not in page.url
    assert "outcome=confused" in page.url
    page.get_by_role("link", name="110", exact=True).click()
    shows(page, "h1", "eval episode 110")
    page.get_by_role("link", name="← 109").click()
    shows(page, "h1", "eval episode 109")
    page.locator("summary", has_text="Phases in order").click()
    assert "exploring" in text_of(page, "details[open]")


def test_an_open_episode_is_found_from_the_run_and_leads_back_to_it(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    run_python.start(RICH, "stays", env=exporter.env).wait_for("open")
    eventually(
        lambda: (
            [one["index"] for one in exporter.episodes("rich", "?outcome=open")]
            == [120]
        )
    )
    page = chromium_page
    page.goto(f"{exporter.web}/runs/rich/episodes")
    page.get_by_role("link", name="1 open").click()
    page.get_by_role("link", name="120", exact=True).click()
    shows(page, "h1", "train episode 120")
    assert "open" in text_of(page, ".title .badge")
    assert "Target spoon" in text_of(page, ".facts")
    page.get_by_role("link", name="Watch it live").click()
    shows(page, "#where", "spoon")


def test_both_pages_fit_a_phone(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium: Any
) -> None:
    exporter = exporter_process()
    run_python(RICH, env=exporter.env)
    eventually(lambda: len(exporter.indices("rich")) == 120)
    failed = exporter.episodes("rich", "?failed=1")[0]["trace_id"]
    page = chromium.new_page(viewport={"width": 390, "height": 800})
    for path in ("episodes", f"episodes/{failed}"):
        page.goto(f"{exporter.web}/runs/rich/{path}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
