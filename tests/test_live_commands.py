"""Commands from the page: a real browser, a real exporter, real experiments."""

from pathlib import Path
from typing import Any, Callable, List

import pytest

from tests.support import Exporter, Pythons, eventually
from tests.test_live_page import opened, same_document, shows, text_of

CODE = """
    import pathlib, sys, time
    import experiment_hooks as eh

    with eh.open_run("steered", run_id="steered", stoppable=True) as run:
        saved = pathlib.Path("saved")
        run.on_command("checkpoint", lambda c: saved.write_text(c.reason))
        run.on_command("fails <b>", lambda c: 1 / 0)
        while True:
            with run.episode() as ep:
                for _ in range(20):
                    ep.step(state={"x": 1})
                    time.sleep(0.005)
                ep.finish("fine")
"""
COMMANDS = "/api/v1/runs/steered/commands"


@pytest.fixture
def exporter(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> Exporter:
    """One with a run that takes commands."""
    made = exporter_process()
    run_python.start(CODE, env=made.env)
    eventually(lambda: "stop" in made.run("steered")["commands"])
    return made


def log_in(page: Any, exporter: Exporter) -> None:
    opened(page, f"{exporter.web}/runs/steered?token={exporter.token}")


def ask(page: Any, button: str, reason: str = "") -> None:
    """Fill the form in and press the button: it has to be confirmed then."""
    if not page.locator("#order form").is_visible():
        page.locator("#order summary").click()
    page.get_by_label("Reason").fill(reason)
    page.locator("#order").get_by_role("button", name=button, exact=True).click()
    assert page.locator("#confirm").is_visible()


def test_a_stop_is_given_with_a_reason_and_seen_to_be_done(
    exporter: Exporter, chromium_page: Any, console_errors: List[str]
) -> None:
    page = chromium_page
    log_in(page, exporter)
    assert text_of(page, "#orders") == ""
    page.locator("#order summary").click()
    page.get_by_label("after this episode").check()
    ask(page, "Stop…", "it <i>slips</i>")
    assert text_of(page, "#confirm-what") == "Stop the run after this episode?"
    assert text_of(page, "#confirm-reason") == "Reason: it <i>slips</i>"
    assert exporter.get(COMMANDS).json() == {"commands": []}
    page.get_by_role("button", name="Stop", exact=True).click()
    shows(page, "#order-said", "Given, and on record.")
    shows(page, "#orders", "stop after this episode, the whole run 1 done")
    assert "by 127.0.0.1: it <i>slips</i>" in text_of(page, "#orders")
    shows(page, "#verdict", "stopped")
    eventually(lambda: page.locator("#order [name=reason]").count() == 0)
    (given,) = exporter.get(COMMANDS).json()["commands"]
    assert (given["when"], given["reason"]) == ("episode", "it <i>slips</i>")
    assert {one["outcome"] for one in exporter.episodes("steered")} == {"fine"}
    assert same_document(page)
    assert console_errors == []


def test_each_name_that_is_taken_has_a_button(
    exporter: Exporter, chromium_page: Any, tmp_path: Path, console_errors: List[str]
) -> None:
    page = chromium_page
    log_in(page, exporter)
    ask(page, "checkpoint…", "before lunch")
    assert text_of(page, "#confirm-what") == "Give the run the command checkpoint?"
    page.get_by_role("button", name="checkpoint", exact=True).click()
    shows(page, "#orders", "checkpoint the whole run 1 done")
    assert (tmp_path / "saved").read_text() == "before lunch"
    ask(page, "fails <b>…")
    page.get_by_role("button", name="fails <b>", exact=True).click()
    shows(page, "#orders", "fails <b> the whole run 1 failed")
    page.locator("#orders summary").click()
    shows(page, "#orders", "ZeroDivisionError: division by zero")
    names = page.locator("#orders .given strong").all_inner_texts()
    assert names == ["fails <b>", "checkpoint"], "the newest first"
    assert "running" in text_of(page, "#verdict")
    assert console_errors == []


def test_nothing_is_given_before_it_was_confirmed(
    exporter: Exporter, chromium_page: Any
) -> None:
    """By keyboard alone: to the form, into the question, and out of it."""
    page = chromium_page
    log_in(page, exporter)
    page.locator("#order summary").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Reason").focus()
    for leave in ("Escape", "Enter"):  # what has the focus then is to cancel
        page.keyboard.press("Enter")
        eventually(page.locator("#confirm").is_visible)
        assert page.evaluate("document.activeElement.textContent") == "Cancel"
        page.keyboard.press(leave)
        eventually(lambda: not page.locator("#confirm").is_visible())
        assert page.evaluate("document.activeElement.name") == "reason"
    assert exporter.get(COMMANDS).json() == {"commands": []}
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    shows(page, "#orders", "stop after this step, the whole run")


def test_without_the_token_the_page_leads_to_it_and_back(
    exporter: Exporter, chromium_page: Any
) -> None:
    page = chromium_page
    opened(page, f"{exporter.web}/runs/steered")
    ask(page, "Stop…")
    page.get_by_role("button", name="Stop", exact=True).click()
    shows(page, "#order-said", "Commands need the token: enter it")
    assert exporter.get(COMMANDS).json() == {"commands": []}
    page.get_by_role("link", name="enter it").click()
    page.get_by_label("Token").fill("guessed")
    page.get_by_role("button", name="Open").click()
    shows(page, "h1", "This needs the token")
    page.get_by_label("Token").fill(exporter.token)
    page.get_by_role("button", name="Open").click()
    page.wait_for_url(f"{exporter.web}/runs/steered")
    shows(page, "#connection", "connected")
    ask(page, "Stop…")
    page.get_by_role("button", name="Stop", exact=True).click()
    shows(page, "#verdict", "stopped")


def test_what_the_api_says_against_it_is_shown(
    exporter: Exporter, chromium_page: Any
) -> None:
    page = chromium_page
    log_in(page, exporter)
    page.locator("#order summary").click()
    page.evaluate(
        "document.querySelector('[data-command=checkpoint]').dataset.command = '<u>x'"
    )
    ask(page, "checkpoint…")
    page.get_by_role("button", name="<u>x", exact=True).click()
    shows(page, "#order-said", "Not given: nobody takes '<u>x'; taken are: checkpoint")
    ask(page, "Stop…")
    exporter.kill()
    page.get_by_role("button", name="Stop", exact=True).click()
    shows(page, "#order-said", "The exporter did not answer")


def test_of_several_processes_one_can_be_stopped(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    code = """
        import subprocess, sys, time
        import experiment_hooks as eh
        child = len(sys.argv) > 1
        with eh.open_run("pair", run_id="pair", stoppable=child) as run:
            if not child:
                subprocess.Popen([sys.executable, __file__, "child"])
            while True:
                run.progress()
                time.sleep(0.01)
    """
    run_python.start(code, env=exporter.env)
    eventually(lambda: exporter.run("pair")["commands"] == ["stop"])
    found = exporter.run("pair")["source_list"]
    (child,) = [one for one in found if one["role"] == "child"]
    page = chromium_page
    address = f"{exporter.web}/runs/pair?source={child['source']}"
    opened(page, f"{address}&token={exporter.token}")
    page.locator("#order summary").click()
    page.get_by_label(child["name"]).check()
    page.get_by_label("at once").check()
    ask(page, "Stop…")
    assert text_of(page, "#confirm-what") == f"Stop {child['name']} at once?"
    page.get_by_role("button", name="Stop", exact=True).click()
    shows(page, "#orders", f"stop at once, {child['name']} 1 done")
    eventually(lambda: exporter.run("pair")["sources"]["live"] == 1)
    shows(page, "#verdict", "running")
    shows(page, "#order", "This run takes no commands.")


def test_a_run_that_takes_no_commands_says_how_it_would(
    exporter_process: Callable[..., Exporter], run_python: Pythons, chromium_page: Any
) -> None:
    exporter = exporter_process()
    code = """
        import pathlib, time
        import experiment_hooks as eh
        with eh.open_run("deaf", run_id="deaf") as run:
            while not pathlib.Path("end").exists():
                run.progress()
                time.sleep(0.01)
    """
    child = run_python.start(code, env=exporter.env)
    eventually(lambda: exporter.run("deaf"))
    opened(chromium_page, f"{exporter.web}/runs/deaf")
    shows(chromium_page, "#order", "stoppable=True")
    assert chromium_page.locator("#order form").count() == 0
    (child.log.parent / "end").touch()
    shows(chromium_page, "#verdict", "completed")
    shows(chromium_page, "#removal", "Delete this run…")
    assert "takes no commands" not in text_of(chromium_page, "#order")


def test_without_scripts_the_page_says_how_else_commands_are_given(
    exporter: Exporter, chromium: Any
) -> None:
    page = chromium.new_context(java_script_enabled=False).new_page()
    page.goto(f"{exporter.web}/runs/steered")
    assert "POST …/api/v1/runs/steered/commands" in text_of(page, "#order")
    assert not page.locator("#order summary").is_visible()
    assert not page.locator("#order form").is_visible()


@pytest.fixture
def over(exporter_process: Callable[..., Exporter], run_python: Pythons) -> Exporter:
    """One with a run that has ended, and another."""
    made = exporter_process()
    code = """
        import experiment_hooks as eh
        for name in ("over", "other"):
            with eh.open_run(name, run_id=name) as run:
                run.progress()
    """
    run_python(code, env=made.env)
    for name in ("over", "other"):
        eventually(lambda name=name: made.run(name)["sources"]["ended"] == 1)
    return made


def ask_to_delete(page: Any) -> None:
    page.get_by_role("button", name="Delete this run…").click()
    assert text_of(page, "#confirm-what") == "Delete over?"
    assert "for good" in text_of(page, "#confirm-reason")


def test_an_ended_run_is_deleted_and_the_list_is_where_one_is_then(
    over: Exporter, chromium_page: Any, console_errors: List[str]
) -> None:
    page = chromium_page
    opened(page, f"{over.web}/runs/over?token={over.token}")
    ask_to_delete(page)
    page.keyboard.press("Escape")
    eventually(lambda: not page.locator("#confirm").is_visible())
    assert over.run("over")["state"] == "completed"
    ask_to_delete(page)
    page.get_by_role("button", name="Delete", exact=True).click()
    page.wait_for_url(f"{over.web}/")
    shows(page, "#counts", "1 run")
    eventually(lambda: page.locator("#runs a.to").all_inner_texts() == ["other"])
    assert over.get("/api/v1/runs/over").status == 404
    assert console_errors == []


def test_to_delete_a_run_the_page_leads_to_the_token_and_back(
    over: Exporter, chromium_page: Any
) -> None:
    page = chromium_page
    opened(page, f"{over.web}/runs/over")
    ask_to_delete(page)
    page.get_by_role("button", name="Delete", exact=True).click()
    shows(page, "#removal-said", "To delete a run needs the token: enter it")
    assert over.run("over")["state"] == "completed"
    page.get_by_role("link", name="enter it").click()
    page.get_by_label("Token").fill(over.token)
    page.get_by_role("button", name="Open").click()
    page.wait_for_url(f"{over.web}/runs/over")
    ask_to_delete(page)
    page.get_by_role("button", name="Delete", exact=True).click()
    page.wait_for_url(f"{over.web}/")


def test_why_a_run_was_not_deleted_is_said(over: Exporter, chromium_page: Any) -> None:
    page = chromium_page
    opened(page, f"{over.web}/runs/over?token={over.token}")
    ask_to_delete(page)
    assert over.delete("/api/v1/runs/over").status == 204  # by somebody else
    shows(page, "#verdict", "gone")
    page.get_by_role("button", name="Delete", exact=True).click()
    shows(page, "#removal-said", "Not deleted: there is no run 'over'")
    assert page.get_by_role("button", name="Delete this run…").count() == 0
    opened(page, f"{over.web}/runs/other")
    page.get_by_role("button", name="Delete this run…").click()
    over.kill()
    page.get_by_role("button", name="Delete", exact=True).click()
    shows(page, "#removal-said", "The exporter did not answer")


def test_the_script_is_small_and_needs_no_other(exporter: Exporter) -> None:
    script = exporter.get("/static/commands.js").text
    assert len(script.splitlines()) < 105
    assert "innerHTML" not in script
