"""The live page in a real browser, of a real exporter, with real experiments."""

import io
import shlex
import socket
import time
from pathlib import Path
from typing import Any, Callable, List
from urllib.parse import quote

import msgspec
import zmq
from PIL import Image

from tests.support import Exporter, Pythons, eventually, http

PACED = """
    import sys, time
    import experiment_hooks as eh

    with eh.open_run("paced", run_id="paced") as run:
        print("open", flush=True)
        for number in range(100_000):
            with run.episode(mode="train", target="mug") as ep:
                for step in range(200):
                    ep.step(
                        state={"n": number * 200 + step, "pose": {"x": 1.5, "y": [1]}},
                        scores={"left": 0.25, "right": -0.5},
                    )
                    time.sleep(0.01)
                ep.finish(outcome="fine", results={"return": 3.25})
"""


def text_of(page: Any, selector: str) -> str:
    """What stands in it, with single spaces, once the styles say what is apart."""
    page.wait_for_load_state()
    found: str = page.locator(selector).inner_text()
    return " ".join(found.split())


def shows(page: Any, selector: str, text: str, deadline: float = 10.0) -> None:
    """Wait until the element shows the text."""
    eventually(lambda: text in text_of(page, selector), deadline, f"{text!r}")


def opened(page: Any, url: str) -> None:
    """Go to a page and wait until it is live; what stands in it then was patched."""
    page.goto(url)
    page.evaluate("window.sameDocument = true")
    shows(page, "#connection", "connected")


def same_document(page: Any) -> bool:
    return bool(page.evaluate("window.sameDocument === true"))


# --- the list -------------------------------------------------------------------------


def test_an_empty_list_says_how_to_send_a_first_run_and_that_works(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
) -> None:
    exporter = exporter_process()
    opened(chromium_page, exporter.web)
    snippet = chromium_page.locator("#snippet").inner_text()
    assert len(snippet.splitlines()) == 3
    assert exporter.ingest in snippet
    assert exporter.web in text_of(chromium_page, "#first-run")
    run_python(snippet)
    shows(chromium_page, "#runs", "first")
    shows(chromium_page, "#runs", "completed")
    assert text_of(chromium_page, "#first-run") == ""
    assert same_document(chromium_page)
    chromium_page.locator("#runs a.to").click()
    shows(chromium_page, "#verdict", "completed")
    shows(chromium_page, "#notices", "Data complete")
    assert console_errors == []


def test_the_list_can_be_filtered(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    code = """
        import sys
        import experiment_hooks as eh
        with eh.open_run(sys.argv[1], tags={"suite": sys.argv[1]}) as run:
            run.publish_log("info", "hello")
    """
    for name in ("apple", "banana"):
        run_python(code, name, env=exporter.env)
    opened(chromium_page, exporter.web)
    shows(chromium_page, "#counts", "2 runs")
    chromium_page.get_by_label("Search").fill("suite=ban")
    chromium_page.get_by_role("button", name="Filter").click()
    shows(chromium_page, "#counts", "1 of 2 runs match")
    assert "apple" not in text_of(chromium_page, "#runs")
    chromium_page.get_by_label("State").select_option("live")
    chromium_page.get_by_role("button", name="Filter").click()
    shows(chromium_page, "#counts", "0 of 2 runs match")
    chromium_page.get_by_role("link", name="show all").click()
    shows(chromium_page, "#runs", "apple")


def test_the_list_is_filtered_while_one_types(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    code = """
        import experiment_hooks as eh
        for name in ("mugs", "bowls", "spoons"):
            with eh.open_run(name, run_id=name) as run:
                pass
    """
    run_python(code, env=exporter.env)
    opened(chromium_page, exporter.web)
    rows = chromium_page.locator("#runs a.to")
    eventually(lambda: rows.count() == 3)
    text = chromium_page.get_by_label("Search")
    text.press_sequentially("bow")
    eventually(lambda: rows.all_inner_texts() == ["bowls"])
    shows(chromium_page, "#counts", "1 of 3 runs match")
    assert chromium_page.url.endswith("/?q=bow")
    assert same_document(chromium_page)
    assert text.evaluate("input => input === document.activeElement")
    text.fill("")
    eventually(lambda: rows.count() == 3)
    chromium_page.get_by_label("State").select_option("live")
    eventually(lambda: rows.count() == 0)
    assert chromium_page.url.endswith("/?state=live")


def test_who_wants_it_is_told_how_a_run_ends_while_looking_elsewhere(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium: Any,
    tmp_path: Path,
) -> None:
    exporter = exporter_process()
    code = """
        import pathlib, sys, time
        import experiment_hooks as eh
        with eh.open_run("told", run_id=sys.argv[1]) as run, run.episode() as ep:
            while not pathlib.Path(sys.argv[2]).exists():
                ep.step()
                time.sleep(0.02)
            raise ValueError("the arm is stuck")
    """
    context = chromium.new_context(permissions=["notifications"])
    told = """
        window.told = [];
        window.Notification = class {
            constructor(title, { body }) { window.told.push([title, body]); }
            static permission = "granted";
            static async requestPermission() { return "granted"; }
        };
    """
    pages = [context.new_page() for _ in range(2)]
    end = tmp_path / "end"
    run_python.start(code, "one", str(end), env=exporter.env)
    eventually(lambda: exporter.run("one"))
    for page, path in zip(pages, ("/", "/runs/one")):
        page.add_init_script(told)
        opened(page, exporter.web + path)
    bell = pages[0].get_by_role("button", name="Notify me")
    assert bell.get_attribute("aria-pressed") == "false"
    bell.click()
    eventually(lambda: bell.get_attribute("aria-pressed") == "true")
    for page in pages:  # they have seen it before it ends
        eventually(lambda page=page: page.locator(".badge").first.is_visible())
    end.touch()
    for page in pages:
        eventually(lambda page=page: page.evaluate("window.told.length") == 1, 20)
        (title, _), *others = page.evaluate("window.told")
        assert title.startswith("failed: told")
        assert others == []
    # What had ended before anybody looked is no news; nor is anything, once unasked.
    pages[1].reload()
    shows(pages[1], "#connection", "connected")
    shows(pages[1], "#verdict", "failed")
    assert pages[1].evaluate("window.told") == []
    bell.click()
    eventually(lambda: bell.get_attribute("aria-pressed") == "false")
    run_python(code, "two", str(end), env=exporter.env, status=1)
    shows(pages[0], "#runs", "two")
    eventually(lambda: pages[0].locator("#run-two .badge").inner_text() == "failed")
    assert pages[0].evaluate("window.told.length") == 1
    context.close()


def test_a_refused_connection_is_shown_with_its_reason(
    exporter_process: Callable[..., Exporter], chromium_page: Any
) -> None:
    exporter = exporter_process()
    opened(chromium_page, exporter.web)
    hello = {
        "kind": "hello", "protocol": 99, "source": b"s" * 16, "run": "r",
        "sent": 0.0, "host": "<i>node-7</i>",
    }  # fmt: skip
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(exporter.ingest)
        dealer.send(msgspec.msgpack.encode(hello))
        assert dealer.poll(10_000)
        shows(chromium_page, "#refused", "<i>node-7</i>")
    assert "install the same version" in text_of(chromium_page, "#refused")


# --- a run ----------------------------------------------------------------------------


def test_a_run_changes_before_ones_eyes_and_what_one_does_stays(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
) -> None:
    exporter = exporter_process("live.trace_url='http://t/{trace_id}'")
    run_python.start(PACED, env=exporter.env)
    eventually(lambda: exporter.run("paced"))
    page = chromium_page
    opened(page, f"{exporter.web}/runs/paced")
    shows(page, "#verdict", "running")
    shows(page, "#episodes", "fine")
    assert (
        page.locator("#episodes td:last-child a")
        .first.get_attribute("href")
        .startswith("http://t/")
    )
    assert "3.25" in text_of(page, "#episodes")
    shows(page, "#where", "mug")
    assert "right -0.5" in text_of(page, "#scores")
    eventually(lambda: "Steps/s –" not in text_of(page, "#modes"))

    # A fold that is closed, a selection, the scroll position and the focus all stay.
    page.locator("#state summary").click()
    page.evaluate("scrollTo(0, 200)")
    page.evaluate(
        "getSelection().selectAllChildren(document.querySelector('#state .k'))"
    )
    page.evaluate("document.querySelector('#sources a').focus({preventScroll: true})")
    before = text_of(page, "#state")
    eventually(lambda: text_of(page, "#state") != before)
    ended = page.locator("#episodes tr").count()
    eventually(lambda: page.locator("#episodes tr").count() > ended)
    assert page.evaluate("!document.querySelector('#state details').open")
    assert page.evaluate("scrollY") == 200
    assert page.evaluate("getSelection().toString()") == "n"
    assert page.evaluate("document.activeElement.closest('#sources') !== null")
    assert "paced" in page.title()
    assert "running" in page.title()
    assert same_document(page)
    assert console_errors == []


def test_while_watched_the_state_comes_often_and_images_come_at_all(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium: Any,
    tmp_path: Path,
) -> None:
    exporter = exporter_process()
    drawn = tmp_path / "drawn"
    drawn.touch()
    code = """
        import sys, time
        import numpy as np
        import experiment_hooks as eh

        def picture():
            with open(sys.argv[1], "a") as file:
                file.write("x")
            return {"a//b?": np.full((4, 6, 3), (255, 0, 0), np.uint8)}

        with eh.open_run("paced", run_id="paced") as run, run.episode() as ep:
            while True:
                ep.step(state={"at": time.time()}, images=picture)
                time.sleep(0.005)
    """
    run_python.start(code, str(drawn), env=exporter.env)
    eventually(lambda: exporter.value("experiment_steps_total", run="paced"))
    assert drawn.stat().st_size == 0
    page = chromium.new_page()
    opened(page, f"{exporter.web}/runs/paced")
    image = page.locator("#images img")
    eventually(lambda: image.evaluate("image => image.naturalWidth") == 6)
    seen = page.evaluate(
        """() => new Promise(done => {
            const seen = new Set();
            const look = new MutationObserver(
                () => seen.add(document.getElementById("state").textContent));
            look.observe(document.getElementById("state"),
                {subtree: true, childList: true, characterData: true});
            setTimeout(() => done(seen.size), 3000);
        })"""
    )
    assert 18 <= seen <= 31
    source = image.get_attribute("src")
    eventually(lambda: image.get_attribute("src") != source)
    page.close()
    # A few seconds after the last browser has gone, nothing is drawn any more.

    def stands_still() -> bool:
        size = drawn.stat().st_size
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            time.sleep(0.05)
        return drawn.stat().st_size == size

    eventually(stands_still, 20)
    assert exporter.value("episight_browsers") == 0
    found = exporter.run("paced")["source_list"][0]["source"]
    name = quote("a//b?", safe="")
    answer = exporter.get(f"/runs/paced/sources/{found}/images/{name}.png")
    assert answer.status == 200
    assert Image.open(io.BytesIO(answer.body)).getpixel((5, 3)) == (255, 0, 0)
    for path in (f"{found}/images/b.png", f"{'0' * 32}/images/a.png", "x/images/a.png"):
        assert exporter.get(f"/runs/paced/sources/{path}").status == 404


def test_a_failed_run_shows_its_error_first(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
) -> None:
    exporter = exporter_process()
    code = """
        import experiment_hooks as eh
        with eh.open_run("fails", run_id="fails", config={"lr": 0.125}) as run:
            run.publish_log("warning", "it smells", where="sensor")
            with run.episode(mode="eval") as ep:
                ep.step()
                raise LookupError("no <b>sensor</b> 3")
    """
    run_python(code, env=exporter.env, status=1)
    opened(chromium_page, f"{exporter.web}/runs/fails")
    shows(chromium_page, "#verdict", "failed")
    error = text_of(chromium_page, "#error")
    assert error.startswith("LookupError no <b>sensor</b> 3")
    assert "Traceback (most recent call last)" in error
    assert "lr 0.125" in text_of(chromium_page, "#about")
    assert "warning it smells where=sensor" in text_of(chromium_page, "#log")
    assert "error LookupError" in text_of(chromium_page, "#episodes")
    delete = chromium_page.get_by_role("button", name="Delete this run…")
    below = chromium_page.locator("#about").bounding_box()
    assert delete.bounding_box()["y"] > below["y"] + below["height"]
    icon = chromium_page.locator("#icon").get_attribute("href")
    assert icon.endswith("favicon-bad.svg")
    assert http(icon).status == 200
    assert console_errors == []


def test_what_goes_on_stands_beside_the_verdict_and_the_command_can_be_copied(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
) -> None:
    exporter = exporter_process()
    code = """
        import pathlib, time
        import experiment_hooks as eh
        with eh.open_run("goes", run_id="goes") as run:
            with run.episode(mode="eval") as ep:
                while not pathlib.Path("enough").exists():
                    ep.step()
                    time.sleep(0.01)
            with run.episode(mode="<b>test") as ep:
                while not pathlib.Path("end").exists():
                    time.sleep(0.01)
    """
    child = run_python.start(code, "lr=0.1", "name=a b", env=exporter.env)
    eventually(lambda: exporter.run("goes"))
    page = chromium_page
    opened(page, f"{exporter.web}/runs/goes")
    shows(page, "#under-way", "eval")
    assert page.get_by_role("list", name="Modes under way").count() == 1
    (child.log.parent / "enough").touch()
    shows(page, "#under-way", "<b>test")
    (child.log.parent / "end").touch()
    shows(page, "#verdict", "completed")
    eventually(lambda: page.locator("#under-way li").count() == 0)

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = page.locator(".command").get_by_role("button")
    assert button.inner_text() == "Copy"
    button.click()
    eventually(lambda: button.inner_text() == "Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert shlex.split(copied) == child.command
    assert copied.endswith(" lr=0.1 'name=a b'")
    assert console_errors == []


def test_between_sources_one_switches_and_the_page_never_does(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    code = """
        import pathlib, subprocess, sys, time
        import experiment_hooks as eh
        begun = pathlib.Path("begun")
        with eh.open_run("two", run_id="two") as run:
            if len(sys.argv) < 2:
                child = subprocess.Popen([sys.executable, __file__, "child"])
                while not begun.exists():
                    time.sleep(0.02)
            with run.episode(target=sys.argv[-1][-5:]) as ep:
                begun.touch()
                while True:
                    ep.step(state={"who": sys.argv[-1][-5:]})
                    time.sleep(0.02)
    """
    run_python.start(code, env=exporter.env)
    eventually(lambda: exporter.run("two")["sources"]["live"] == 2)
    eventually(lambda: len([s for s in sources(exporter) if s["open"]]) == 2)
    opened(chromium_page, f"{exporter.web}/runs/two")
    shows(chromium_page, "#state", "who child")  # its episode is the older one
    owner = next(s for s in sources(exporter) if s["role"] == "owner")
    chromium_page.locator("#strip a", has_text=owner["name"]).click()
    shows(chromium_page, "#connection", "connected")
    shows(chromium_page, "#where", "Step")
    shown = chromium_page.locator("#where dl").get_attribute("data-source")
    assert shown == owner["source"]
    assert "who child" not in text_of(chromium_page, "#state")
    assert f"source={owner['source']}" in chromium_page.url


def sources(exporter: Exporter) -> List[Any]:
    found: List[Any] = exporter.run("two")["source_list"]
    return found


# --- what may go wrong ----------------------------------------------------------------


def test_hostile_names_are_harmless(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
) -> None:
    exporter = exporter_process()
    code = """
        import logging, time
        import numpy as np
        import experiment_hooks as eh
        bad = "<script>ran=1;alert(1)</script>'\\"><img src=/x onerror=ran=1;alert(1)>"
        with eh.open_run(bad, run_id="bad", config={bad: [bad, {bad: bad}]},
                         tags={bad: bad}, facts={bad: bad}) as run:
            with run.episode(mode=bad, target=bad) as ep:
                ep.step(state={bad: bad})
                ep.finish(outcome=bad, results={bad: 1.0})
            with run.episode(mode=bad, target=bad) as ep:
                print("open", flush=True)
                while True:
                    with ep.phase(bad):
                        ep.step(state={bad: bad, "x": {bad: [bad] * 20}},
                                scores={bad: 1.0, "</svg>": float("nan")},
                                images={bad: np.zeros((2, 2), np.uint8)})
                        run.publish_data(bad, bad)
                        run.publish_log(bad, bad, **{bad: bad})
                        time.sleep(0.05)
    """
    dialogs: List[str] = []
    chromium_page.on("dialog", lambda d: (dialogs.append(d.message), d.dismiss()))
    run_python.start(code, env=exporter.env).wait_for("open")
    opened(chromium_page, exporter.web)
    shows(chromium_page, "#runs", "<script>ran=1")
    chromium_page.locator("#runs a.to").click()
    shows(chromium_page, "h1", "<script>ran=1")
    for place in ("modes", "where", "state", "scores", "images", "streams", "about"):
        shows(chromium_page, f"#{place}", "<script>ran=1")
    for place in ("episodes", "log", "sources"):
        shows(chromium_page, f"#{place}", "<script>ran=1")
    image = chromium_page.locator("#images img")
    eventually(lambda: image.evaluate("image => image.naturalWidth") == 2)
    assert chromium_page.evaluate("typeof ran") == "undefined"
    assert chromium_page.locator("main script").count() == 0
    assert dialogs == []
    assert console_errors == []


def test_a_page_recovers_by_itself_when_the_exporter_comes_back(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    run_python.start(PACED, env=exporter.env)
    eventually(lambda: exporter.run("paced"))
    opened(chromium_page, f"{exporter.web}/runs/paced")
    shows(chromium_page, "#episodes", "fine")
    shown = chromium_page.locator("#where dl").get_attribute("data-source")
    exporter.kill()
    shows(chromium_page, "#connection", "connection lost, trying again", 10)
    before = text_of(chromium_page, "#state")
    exporter.restart()
    shows(chromium_page, "#connection", "connected", 20)
    eventually(lambda: text_of(chromium_page, "#state") != before)
    shows(chromium_page, "#verdict", "running")
    assert chromium_page.locator("#where dl").get_attribute("data-source") == shown
    assert same_document(chromium_page)


def test_a_page_that_cannot_be_drawn_says_that_it_is_old(
    exporter_process: Callable[..., Exporter], chromium_page: Any
) -> None:
    exporter = exporter_process()
    lines: List[Any] = []

    def answered(line: Any) -> None:  # by us, in place of the exporter
        lines.append(line)

    chromium_page.route_web_socket("**/live*", answered)
    chromium_page.goto(exporter.web)
    (line,) = eventually(lambda: chromium_page.title() and lines)
    for said, shown in [
        ("{}", "connected"),
        ('{"broken":true}', "old: the exporter cannot draw this page"),
        ('{"behind":true}', "old: the exporter cannot draw this page"),
        ("{}", "behind: the connection is slow"),
        ('{"behind":false}', "connected"),
    ]:
        line.send(said)
        shows(chromium_page, "#connection", shown)


def test_a_stopping_exporter_lets_its_browsers_go(
    exporter_process: Callable[..., Exporter], chromium_page: Any
) -> None:
    exporter = exporter_process()
    opened(chromium_page, exporter.web)
    assert exporter.terminate(10) == 0


def test_a_run_that_is_not_known_has_a_page_that_says_so(
    exporter_process: Callable[..., Exporter],
) -> None:
    exporter = exporter_process()
    answer = exporter.get("/runs/" + quote("<b>no", safe=""))
    assert answer.status == 404
    assert "&lt;b&gt;no" in answer.text
    assert "All runs" in answer.text


def test_a_page_that_is_opened_before_its_run_becomes_its_page(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    chromium_page.goto(f"{exporter.web}/runs/paced")
    shows(chromium_page, "h1", "There is no run paced")
    run_python.start(PACED, env=exporter.env)
    shows(chromium_page, "#main", "running")
    shows(chromium_page, "#where", "mug")


def upgrade(exporter: Exporter, path: str, *headers: str) -> bytes:
    """Ask for a websocket as no browser would; the answer's first line."""
    host = exporter.web.split("//")[1]
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    address, port = host.split(":")
    with socket.create_connection((address, int(port)), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return connection.recv(4096).split(b"\r\n")[0]


def test_only_pages_of_the_exporter_itself_may_listen(
    exporter_process: Callable[..., Exporter],
) -> None:
    exporter = exporter_process()
    assert b"101" in upgrade(exporter, "/live")
    assert b"101" in upgrade(exporter, "/live", f"Origin: {exporter.web}")
    for other in ("https://evil.example", "null", exporter.web + "1"):
        assert b"403" in upgrade(exporter, "/live", f"Origin: {other}")


def test_the_pages_need_nothing_from_elsewhere_and_no_inline_code(
    exporter_process: Callable[..., Exporter],
    run_python: Pythons,
    chromium_page: Any,
    console_errors: List[str],
) -> None:
    exporter = exporter_process()
    run_python.start(PACED, env=exporter.env)
    eventually(lambda: exporter.value("experiment_episodes_total", run="paced"))
    asked: List[str] = []
    chromium_page.on("request", lambda request: asked.append(request.url))
    opened(chromium_page, exporter.web)
    opened(chromium_page, f"{exporter.web}/runs/paced")
    chromium_page.goto(f"{exporter.web}/runs/paced/episodes")
    chromium_page.locator("tbody a").first.click()
    chromium_page.wait_for_load_state()
    assert len(asked) > 5
    assert all(url.startswith(exporter.web) for url in asked)
    assert console_errors == []
    for path in ("/", "/runs/paced", "/runs/paced/episodes"):
        assert "unsafe" not in exporter.get(path).headers["Content-Security-Policy"]
