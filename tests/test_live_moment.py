"""What a page shows of the moment: charts of scores, sources, log and config."""

import io
from pathlib import Path
from typing import Any, Callable, Dict, List

from PIL import Image

from tests.support import Exporter, Pythons, eventually
from tests.test_live_page import opened, shows, text_of

PACED = """
    import time
    import numpy as np
    import experiment_hooks as eh

    OBJECTS = {f"object-{n}": n / 20 for n in range(20)}
    CONFIG = {"model": {"depth": 3, "names": ["left", "right"]}, "rate": 0.5}
    depth = np.linspace(0.5, 2.5, 48, dtype="f4").reshape(6, 8)

    with eh.open_run("scores", run_id="scores", config=CONFIG) as run:
        for index, level in enumerate(["debug", "info", "warning", "error"]):
            run.publish_log(level, f"a line of {level}")
        for index in range(1000):
            target = f"object-{index % 20}"
            with run.episode(mode="eval", index=index, target=target) as ep:
                for step in range(30):
                    scores = {}
                    for lm in ("LM_0", "LM_1"):
                        for name, low in OBJECTS.items():
                            scores[f"{lm}/{name}"] = low + (name == target) * step / 4
                    ep.step(scores=scores, images={"depth": depth})
                    time.sleep(0.02)
"""


def charted(page: Any) -> Any:
    """The first chart's drawing, once there is a line in it."""
    plot = page.locator(".chart > svg").first
    eventually(lambda: plot.locator("path[class^=line]").count() > 3)
    return plot


def now_at(plot: Any) -> str:
    found: str = plot.get_attribute("aria-valuetext") or ""
    return found


def test_scores_are_drawn_over_steps_for_each_learning_module(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
) -> None:
    exporter = exporter_process()
    run_python.start(PACED, env=exporter.env)
    eventually(lambda: exporter.value("experiment_episodes_total", run="scores"))
    # Nobody has looked so far; what was is there all the same.
    opened(chromium_page, f"{exporter.web}/runs/scores")
    plot = charted(chromium_page)
    labels = plot.locator("text.of")
    eventually(lambda: "object-" in " ".join(labels.all_text_contents()))
    heads = chromium_page.locator(".belief h3")

    def leads() -> bool:
        one, two = heads.all_inner_texts()
        assert one.startswith("Scores LM_0 object-")
        assert two.startswith("Scores LM_1 object-")
        return "✓ the target highest since step" in one and "ahead of" in two

    eventually(leads)
    assert "✓" in text_of(chromium_page, "#where")
    # The target's line is the thick one in each episode's band.
    eventually(lambda: plot.locator("rect.band").count() >= 3)
    assert plot.locator("path.target").count() >= plot.locator("rect.band").count() - 1
    first = now_at(plot)
    assert "eval episode" in first
    eventually(lambda: now_at(plot) != first)

    # Pointed at, it says what was there.
    plot.hover()
    tip = chromium_page.locator(".tip").first
    eventually(lambda: tip.is_visible() and "object-" in tip.inner_text())
    assert "step" in tip.inner_text()

    # By keys: from the newest step on, and what is read is told.
    chromium_page.mouse.move(0, 0)
    plot.focus()
    eventually(lambda: plot.locator(".cursor").count() == 0)
    newest = int(plot.get_attribute("aria-valuenow"))
    plot.press("ArrowLeft")
    eventually(lambda: int(plot.get_attribute("aria-valuenow")) >= newest - 1)
    plot.press("Home")
    eventually(lambda: plot.get_attribute("aria-valuenow") == "0")
    plot.press("ArrowRight")
    eventually(lambda: plot.get_attribute("aria-valuenow") == "1")
    begin = plot.locator("text.x").first
    plot.press("+")
    eventually(lambda: pressed(chromium_page, "Follow") == "false")
    stays = begin.text_content()
    bands = len(exporter.episodes("scores"))
    eventually(lambda: len(exporter.episodes("scores")) >= bands + 2)
    assert begin.text_content() == stays, "what the reader looks at does not move"
    ours = """(plot, more) => !plot.dispatchEvent(
        new KeyboardEvent("keydown", { key: "+", cancelable: true, ...more }))"""
    assert plot.evaluate(ours, {})
    assert not plot.evaluate(ours, {"ctrlKey": True}), "that is the browser's"
    # What is read is seen, also where that was not shown.
    plot.press("+")
    plot.press("+")
    plot.press("Home")
    eventually(lambda: plot.get_attribute("aria-valuenow") == "0")
    at = float(plot.locator(".cursor").get_attribute("d")[1:].split()[0])
    assert 46 < at < plot.bounding_box()["width"] - 8
    plot.press("Escape")
    eventually(lambda: pressed(chromium_page, "Follow") == "true")

    # Dragged over, that is shown.
    mouse = chromium_page.mouse
    plot.hover(position={"x": 100, "y": 60})
    mouse.down()
    plot.hover(position={"x": 200, "y": 60})
    mouse.up()
    eventually(lambda: pressed(chromium_page, "Follow") == "false")
    chromium_page.locator(".zoom button", has_text="All").first.click()
    eventually(lambda: pressed(chromium_page, "All") == "true")
    assert console_errors == []


def test_a_chart_stays_while_an_episode_has_no_scores_yet(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
    tmp_path: Path,
) -> None:
    exporter = exporter_process()
    code = """
        import pathlib, sys, time
        import experiment_hooks as eh
        go_on = pathlib.Path(sys.argv[1])
        with eh.open_run("late", run_id="late") as run:
            for index in range(1000):
                with run.episode(mode="eval", index=index, target="mug") as ep:
                    for step in range(20):
                        if index == 3 and step == 10:
                            while not go_on.exists():
                                time.sleep(0.01)
                                ep.step(state={"step": step})
                        scores = {"mug": step, "cup": 2} if step >= 10 else None
                        ep.step(state={"step": step}, scores=scores)
                        time.sleep(0.03)
    """
    go_on = tmp_path / "go_on"
    run_python.start(code, str(go_on), env=exporter.env)
    page = chromium_page
    eventually(lambda: len(exporter.episodes("late", "?outcome=ended")) == 3)
    opened(page, f"{exporter.web}/runs/late")
    shows(page, "#where", "Episode 3")
    shows(page, "#scores", "No scores at this step")
    page.locator(".zoom button", has_text="All").click()
    bands = page.locator(".chart rect.band")
    before = eventually(bands.count)
    assert "Highest score" not in text_of(page, "#where"), "that was another episode"
    page.evaluate("window.chart = document.querySelector('.chart')")
    go_on.touch()
    shows(page, "#where", "Highest score ✓ mug")
    eventually(lambda: bands.count() >= before + 2)
    assert page.evaluate("window.chart === document.querySelector('.chart')")
    assert console_errors == []


def pressed(page: Any, name: str) -> str:
    button = page.locator(".zoom button", has_text=name).first
    found: str = button.get_attribute("aria-pressed")
    return found


def test_a_depth_is_shown_in_colours_with_its_range(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    run_python.start(PACED, env=exporter.env)
    eventually(lambda: exporter.run("scores"))
    opened(chromium_page, f"{exporter.web}/runs/scores")
    shows(chromium_page, "#images", "depth")
    assert text_of(chromium_page, "#images .extent") == "0.5 2.5"
    source = chromium_page.locator("#images img").get_attribute("src")
    answer = exporter.get(f"/runs/{source.removeprefix('./')}")
    drawn = Image.open(io.BytesIO(answer.body)).convert("RGB")
    red, _, blue = drawn.getpixel((0, 0))
    assert blue > red, "what is near is dark blue"
    red, green, blue = drawn.getpixel((7, 5))
    assert min(red, green) - blue > 140, "what is far is yellow"


def test_the_log_is_filtered_by_level_and_the_config_by_a_word(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    run_python.start(PACED, env=exporter.env)
    eventually(lambda: exporter.run("scores"))
    opened(chromium_page, f"{exporter.web}/runs/scores")
    shows(chromium_page, "#log", "a line of error")
    level = chromium_page.get_by_label("Level")
    for least, left in [("error", 1), ("warning", 2), ("info", 3), ("", 4)]:
        level.select_option(least)
        lines = chromium_page.locator("#log li")
        assert sum(one.is_visible() for one in lines.all()) == left

    config = chromium_page.locator("#about section", has_text="Config")
    search = chromium_page.get_by_label("Search")
    search.fill("RIGHT")
    eventually(lambda: "1 found" in config.inner_text())
    assert "right" in config.inner_text()
    for hidden in ("rate", "depth", "left"):
        assert config.get_by_text(hidden, exact=True).is_visible() is (hidden == "left")
    search.fill("model.depth")
    eventually(lambda: config.get_by_text("depth", exact=True).is_visible())
    assert not config.get_by_text("rate", exact=True).is_visible()
    search.fill("")
    eventually(lambda: config.get_by_text("rate", exact=True).is_visible())


def test_the_strip_shows_where_each_source_stands_the_slowest_first(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    code = """
        import subprocess, sys, time
        import experiment_hooks as eh

        with eh.open_run("many", run_id="many") as run:
            pace = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
            if len(sys.argv) == 1:
                for other in ("0.02", "0.005"):
                    subprocess.Popen([sys.executable, __file__, other])
            with run.episode(mode="train", target=f"pace {pace}") as ep:
                while True:
                    ep.step()
                    time.sleep(pace)
    """
    run_python.start(code, env=exporter.env)
    eventually(lambda: exporter.run("many")["sources"]["live"] == 3)
    opened(chromium_page, f"{exporter.web}/runs/many")
    rows = chromium_page.locator("#strip li")

    def paces() -> List[str]:
        return [text.split("pace ")[-1].strip() for text in rows.all_inner_texts()]

    eventually(lambda: paces() == ["0.3", "0.02", "0.005"], 20)
    assert "3 live sources" in text_of(chromium_page, "#strip-head")
    assert "steps/s" in text_of(chromium_page, "#strip")
    chosen = chromium_page.locator("#strip [aria-current=true]")
    assert chosen.count() == 1
    slowest = rows.first.locator("a")
    slowest.focus()
    slowest.press("Enter")
    shows(chromium_page, "#connection", "connected")
    eventually(lambda: "pace 0.3" in chosen.inner_text())
    assert "pace 0.3" in text_of(chromium_page, "#where")


WATCHED = """
    import time
    import numpy as np
    import experiment_hooks as eh

    picture = np.zeros((4, 4, 3), np.uint8)
    with eh.open_run("seen", run_id="seen") as run, run.episode() as ep:
        while True:
            ep.step(state={"a": 1}, images=lambda: {"view": picture})
            run.publish_data("sensor", 1.5)
            time.sleep(0.005)
"""


def counted(exporter: Exporter) -> Dict[str, float]:
    """What sources have shown since the exporter's start."""
    kinds = ("state", "image", "stream", "sample")
    names = dict.fromkeys(kinds[:3], "episight_moments_total")
    names["sample"] = "episight_samples_total"
    return {kind: exporter.value(name, kind=kind) for kind, name in names.items()}


def test_images_and_streams_are_made_only_while_somebody_watches(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium: Any
) -> None:
    exporter = exporter_process()
    run_python.start(WATCHED, env=exporter.env)

    def nothing_is_made() -> None:
        eventually(lambda: (counted(exporter)["sample"] or 0) >= 4)
        found = counted(exporter)
        assert (found["image"], found["stream"]) == (0, 0)
        assert found["state"] <= found["sample"] <= 10, "once a second"

    nothing_is_made()
    page = chromium.new_page()
    opened(page, f"{exporter.web}/runs/seen")
    before = counted(exporter)
    eventually(lambda: counted(exporter)["image"] >= 20)
    made = {kind: n - before[kind] for kind, n in counted(exporter).items()}
    assert min(made["state"], made["stream"]) >= 18

    # An exporter that dies while somebody watches, and comes back to nobody.
    exporter.kill()
    page.close()
    exporter.start()
    nothing_is_made()
    page = chromium.new_page()
    opened(page, f"{exporter.web}/runs/seen")
    eventually(lambda: counted(exporter)["image"] >= 5)


def test_a_page_is_light(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    """All that a run's page needs until it is drawn, as it travels."""
    exporter = exporter_process()
    run_python.start(PACED, env=exporter.env)
    eventually(lambda: len(exporter.episodes("scores")) >= 5)
    sizes: Dict[str, int] = {}

    def note(request: Any) -> None:
        said = request.sizes()
        sizes[request.url.rpartition("/")[2].partition("?")[0]] = (
            said["responseBodySize"] + said["responseHeadersSize"]
        )

    chromium_page.on("requestfinished", note)
    opened(chromium_page, f"{exporter.web}/runs/scores")
    images = {name for name in sizes if name.endswith(".png")}
    scripts = {name for name in sizes if name.endswith(".js")}
    assert {"scores", "style.css", "live.js"} <= sizes.keys()
    assert sum(sizes[name] for name in sizes.keys() - images) < 50_000, sizes
    assert sum(sizes[name] for name in scripts) < 20_000, sizes
