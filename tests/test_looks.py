"""Views of one's own: whose run they draw, what they replace, what a mistake costs."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from markupsafe import Markup, escape

from exporter.live import view
from exporter.live.aside import Aside, Drawing
from exporter.live.custom import Seen, View
from exporter.live.looks import OURS, Fragments, Looks
from exporter.settings import ViewSettings
from tests.support import eventually

SEEN = Seen({"run": "r"}, state={"angle": 0.5})
parts = Fragments("run_parts.html")


def looks(folder: Path | str = "", target: str = "", **options: Any) -> Looks:
    found = ViewSettings("mine", "*", str(folder), target, tuple(options.items()))
    return Looks((found,))


# --- which run ------------------------------------------------------------------------


def test_the_first_that_fits_by_name_or_kind_draws_the_run(tmp_path: Path) -> None:
    found = Looks(
        (
            ViewSettings("arms", "reach*", str(tmp_path)),
            ViewSettings("monty", "monty", str(tmp_path)),
            ViewSettings("rest", "r*", str(tmp_path)),
        )
    )
    assert found.of("reach-7", None).name == "arms"
    assert found.of("anything", "monty").name == "monty"
    assert found.of("run", "monty").name == "monty"
    assert found.of("run", 7).name == "rest"
    assert found.of("Reach", None) is OURS
    assert found.of("reach", None) is found.of("reach-2", "x"), "made once"


# --- templates ------------------------------------------------------------------------


def test_a_fragment_of_the_users_takes_the_place_of_ours(tmp_path: Path) -> None:
    (tmp_path / "run_parts.html").write_text(
        '{% from "episight/run_parts.html" import badge %}'
        "{% macro name(run) %}<i>{{ run.experiment }}</i> {{ badge(run.state) }}"
        "{% endmacro %}"
    )
    run = {"experiment": "<b>", "run": "r", "state": "running", "reason": ""}
    with looks(tmp_path).of("a", None).in_use():
        assert parts.name(run).startswith("<i>&lt;b&gt;</i> <span class=")
        assert "running" in parts.verdict(run), "the others are ours"
    assert not parts.name(run).startswith("<i>")


def test_a_document_of_the_users_extends_ours(tmp_path: Path) -> None:
    (tmp_path / "missing.html").write_text(
        '{% extends "episight/missing.html" %}{% block main %}Nothing: {{ run }}'
        "{% endblock %}"
    )
    look = looks(tmp_path).of("a", None)
    values = {"version": "1", "root": "", "socket": "", "run": "r", "parts": {}}
    html = look.page("missing.html", values)
    assert "Nothing: r" in html
    assert "<title" in html
    assert look.mistakes == []


MISTAKES = {
    "{% macro name(run) %}\n{{ run.nothing.at.all }}{% endmacro %}": "line 2",
    "\n{% macro name(run) %}{{ nobody }}{% endmacro %}": "'nobody' is undefined",
    "\n\n{% macro name(run) %}{{ 1 / 0 }}{% endmacro %}": "line 3: ZeroDivisionError",
    "\n{% macro name(run) %}{% endif %}": "line 2: TemplateSyntaxError",
    '{% include "nothing.html" %}': "nothing.html",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_told_with_file_and_line_and_ours_is_drawn(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "run_parts.html").write_text(text)
    look = looks(tmp_path).of("a", None)
    run = {"experiment": "exp", "run": "r"}
    with look.in_use():
        assert "exp" in parts.name(run)
    (said,) = look.mistakes
    assert "run_parts.html" in said
    assert MISTAKES[text] in said
    assert escape(said) in view.own(look, Drawing()).parts["view-notices"]


def test_a_mistake_in_a_document_costs_that_document_only(tmp_path: Path) -> None:
    (tmp_path / "missing.html").write_text("\n{{ nobody }}")
    look = looks(tmp_path).of("a", None)
    values = {"version": "1", "root": "", "socket": "", "run": "r", "parts": {}}
    assert "There is no run" in look.page("missing.html", values)
    assert "missing.html, line 2" in look.mistakes[0]


def test_what_has_changed_is_read_at_the_next_load_and_not_before(
    tmp_path: Path,
) -> None:
    template = tmp_path / "run_parts.html"
    found = looks(tmp_path)

    def drawn() -> str:
        with found.of("a", None).in_use():
            return str(parts.name({"experiment": "exp", "run": "r"}))

    for text in ("one", "{{ broken", "two"):
        template.write_text("{% macro name(run) %}" + text + "{% endmacro %}")
        before = found.of("a", None)
        assert found.of("a", None) is before
        look = found.of("a", None, fresh=True)
        assert look is found.of("a", None, fresh=True)
        if "broken" in text:
            assert "exp" in drawn()
            assert look.mistakes
        else:
            assert drawn() == text
            assert look.mistakes == []


def test_a_fragment_that_takes_too_long_is_not_drawn_for_a_while(
    tmp_path: Path,
) -> None:
    (tmp_path / "run_parts.html").write_text(
        "{% macro name(run) %}theirs{{ run.wait() }}{% endmacro %}"
    )
    look = looks(tmp_path).of("a", None)
    waited = []

    def wait() -> str:
        waited.append(1)
        threading.Event().wait(0.06)
        return ""

    run = {"experiment": "exp", "run": "r", "wait": wait}
    with look.in_use():
        for _ in range(3):
            assert "exp" in parts.name(run)
    assert len(waited) == 1
    assert "50 are allowed" in look.mistakes[0]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    look = looks(tmp_path / "nowhere").of("a", None)
    assert look.mistakes == [f"templates: {tmp_path / 'nowhere'} is no folder"]


# --- classes --------------------------------------------------------------------------


@pytest.fixture
def module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Path]]:
    """Writes the module ``my_view``."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text: str) -> Path:
        path = tmp_path / "my_view.py"
        path.write_text(f"from exporter.live.custom import View\n{text}")
        return path

    yield write
    sys.modules.pop("my_view", None)


def drawn(found: Looks, wanted: Callable[[Any], object]) -> Any:
    """What a view has drawn of SEEN, once that is as wanted."""
    aside = found.of("a", None).aside
    assert aside is not None

    def asked() -> Any:
        aside.ask(1, SEEN)
        drawing = aside.newest(1)
        return drawing if wanted(drawing) else None

    return eventually(asked)


def test_a_view_draws_sections_of_its_values(
    module: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "arm.html").write_text("<b>{{ angle }} {{ unit }}</b>")
    module("""
class Arm(View):
    def __init__(self, unit):
        self.unit = unit
    def draw(self, seen):
        html = self.render("arm.html", angle=seen.state["angle"], unit=self.unit)
        return {"Arm": html, "Said <so>": "<script>", "state": "ours is replaced"}
""")
    found = looks(tmp_path, "my_view.Arm", unit="rad")
    drawing = drawn(found, lambda drawing: drawing.sections)
    shown = view.own(found.of("a", None), drawing)
    arm, said = shown.lists["own"].values()
    assert "<b>0.5 rad</b>" in arm
    assert "&lt;script&gt;" in said
    assert "Said &lt;so&gt;" in said
    assert shown.parts["state"] == Markup("ours is replaced")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return {'Arm': seen.state['nothing']}", "line 4: KeyError: 'nothing'"),
        ("return ['Arm']", "AttributeError"),
        ("raise SystemExit(3)", "line 4: SystemExit: 3"),
        (
            "raise type('Odd', (Exception,), {'__str__': lambda self: 1})",
            "line 4: Odd: of which no text",
        ),
        ("return {'Arm': self.render('none.html')}", "line 4: TemplateNotFound"),
    ],
)
def test_what_a_view_raises_is_told(
    body: str, said: str, module: Callable[[str], Path], tmp_path: Path
) -> None:
    module(f"class Arm(View):\n    def draw(self, seen):\n        {body}\n")
    drawing = drawn(looks(tmp_path, "my_view.Arm"), lambda drawing: drawing.mistake)
    assert said in drawing.mistake
    assert drawing.sections == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class Arm(View:", "my_view.py"),
        ("class Leg(View): pass", "no attribute 'Arm'"),
        ("Arm = 3", "has no draw(seen)"),
        ("raise SystemExit(3)", "line 2: SystemExit: 3"),
        ("class Arm(View):\n    def __init__(self): raise ValueError('no')", "line 3"),
    ],
)
def test_a_view_that_cannot_be_made_is_told_and_mended_at_the_next_load(
    text: str, said: str, module: Callable[[str], Path], tmp_path: Path
) -> None:
    module(text)
    found = looks(tmp_path, "my_view.Arm")
    assert said in found.of("a", None).mistakes[0]
    module("class Arm(View):\n    def draw(self, seen): return {'Arm': 'is here'}\n")
    look = found.of("a", None, fresh=True)
    assert look.mistakes == []
    assert drawn(found, lambda drawing: drawing.sections).sections == {"Arm": "is here"}


class Slow(View):
    """Takes as long as it is told to."""

    def __init__(self) -> None:
        self.computes = self.waits = 0.0
        self.hangs = threading.Event()
        self.hangs.set()
        self.drawn = 0

    def draw(self, seen: Seen) -> dict[str, str]:
        self.drawn += 1
        self.hangs.wait(20)
        threading.Event().wait(self.waits)
        computed = time.thread_time()
        while time.thread_time() < computed + self.computes:
            pass
        return {"Slow": str(seen.step)}


def test_one_that_takes_too_long_is_skipped_with_a_notice() -> None:
    slow = Slow()
    done = threading.Event()
    aside = Aside(slow, str, done.set)
    slow.computes = 0.06
    aside.ask(1, SEEN)
    assert done.wait(10)
    assert "50 are allowed" in aside.newest(1).mistake
    assert aside.newest(1).sections == {}
    for _ in range(50):
        aside.ask(1, SEEN)
    assert slow.drawn == 1, "it rests for a while"


def test_one_for_which_the_machine_had_no_time_is_shown_up_to_a_second() -> None:
    slow = Slow()
    slow.waits = 0.2
    aside = Aside(slow, str, lambda: None)
    aside.ask(1, SEEN)
    eventually(lambda: aside.newest(1).sections == {"Slow": "0"})
    slow.waits = 1.01
    aside.ask(2, SEEN)
    eventually(lambda: "50 are allowed" in aside.newest(2).mistake)


def test_one_that_hangs_holds_up_nobody_and_is_told() -> None:
    slow = Slow()
    slow.hangs.clear()
    aside = Aside(slow, str, lambda: None)
    aside.ask(0, Seen({}, step=-1))
    eventually(lambda: slow.drawn)  # else it may be the last of the others that hangs
    since = time.monotonic()
    for step in range(1000):
        aside.ask(step % 3, Seen({}, step=step))
        aside.newest(1)
    assert time.monotonic() - since < 1.0, "nobody waits"
    eventually(lambda: "has been drawing for" in aside.newest(1).mistake)
    slow.hangs.set()

    def drawn() -> bool:
        # As a page does: where the machine itself stood still, it is drawn once more.
        aside.ask(0, Seen({}, step=999))
        return aside.newest(0).sections == {"Slow": "999"}

    eventually(drawn, 45)
