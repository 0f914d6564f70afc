"""The live page's fragments: plain values in, HTML out, nothing else."""

import json
import math
import re
from html.parser import HTMLParser
from typing import Any, Dict, List, Tuple
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as some
from markupsafe import Markup

from experiment_hooks import wire
from exporter.live import commands, trends, view, words
from exporter.live.aside import Drawing
from exporter.live.looks import OURS
from exporter.live.strip import Standing
from exporter.live.tracks import Curve, Seen, Series, Speed
from exporter.live.tree import MAX_ROWS, same, tree

NOW = 1_000_000.0
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}{% raw %}"


# --- what is looked at ----------------------------------------------------------------


class Document(HTMLParser):
    """The tags, attributes and text of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: List[Tuple[str, Dict[str, Any]]] = []
        self.text = ""
        self.feed(str(html))  # markup would escape what is added to it
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += "" if tag in ("span", "b", "strong", "a", "time", "rect") else " "

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    def marked(self) -> List[str]:
        """The classes of all that is marked as changed."""
        found = [attrs.get("class", "") for _, attrs in self.tags]
        return [name for name in found if "changed" in name.split()]


def said(shown: view.Shown) -> str:
    """All that a page shows, as text."""
    return Document(all_html(shown)).words


def all_html(shown: view.Shown) -> str:
    rows = [row for found in shown.lists.values() for row in found.values()]
    return "\n".join([*shown.parts.values(), *rows])


def a_mode(**changes: Any) -> Dict[str, Any]:
    return {
        "steps": 500,
        "episodes": 10,
        "started": 11,
        "lost": 0,
        "successes": 7,
        "outcomes": {"correct": 7, "confused": 3},
        "recent_ends": [NOW - 20 + 2 * n for n in range(10)],
        "results": {"return": 1.5},
        **changes,
    }


def a_run(**changes: Any) -> Dict[str, Any]:
    return {
        "run": "r-1",
        "experiment": "exp",
        "state": "running",
        "reason": "",
        "error": None,
        "started": NOW - 100,
        "ended": None,
        "newest": NOW - 5,
        "progress": NOW - 5,
        "modes": {"train": a_mode()},
        "sources": {"live": 1, "ended": 0, "lost": 0},
        "missing": 0,
        "dropped": {},
        "attempts": 1,
        "promise": None,
        "expected": {"episodes": {"train": 20}, "steps": {}, "epochs": {}},
        "epochs": {"train": 3},
        "success": ("correct",),
        "rates": {},
        "tags": {},
        "config": None,
        "facts": {},
        "info": {},
        "launch": {},
        "hosts": ["host"],
        "open_modes": set(),
        **changes,
    }


def a_source(**changes: Any) -> Dict[str, Any]:
    return {
        "source": "ab" * 16,
        "name": "host:12",
        "process": "MainProcess",
        "host": "host",
        "pid": 12,
        "role": "owner",
        "python": "3.11",
        "version": "1",
        "state": "live",
        "ending": None,
        "error": None,
        "opened": NOW - 100,
        "closed": None,
        "lost": None,
        "missing": 0,
        "clock_skew": 0.0,
        "open": [],
        **changes,
    }


def an_episode(**changes: Any) -> Dict[str, Any]:
    return {
        "source": "ab" * 16,
        "mode": "train",
        "epoch": 1,
        "index": 4,
        "outcome": "correct",
        "success": True,
        "results": {"return": 2.5},
        "steps": 40,
        "started": NOW - 9,
        "ended": NOW - 1,
        "duration_seconds": 8.0,
        "trace_id": "0123456789abcdef" * 2,
        "target": "mug",
        "error": None,
        "last_seen": False,
        "late": False,
        "phase": "matching",
        **changes,
    }


# --- values as trees ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (3, "3"),
        (0.1 + 0.2, "0.3"),
        (2.0, "2"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ("", "''"),
        ("two\nlines", "two lines"),
        ([1, 2.5, "x"], "1, 2.5, x"),
        ([], "[]"),
        ({}, "{}"),
        ({"a": 1, "b": [1, 2]}, "a 1 b 1, 2"),
        (
            {"shape": [2, 3], "dtype": "uint8", "min": 0, "mean": 0.5, "max": 1},
            "uint8 [2 × 3] min 0 mean 0.5 max 1",
        ),
    ],
)
def test_a_value_reads_as_python_would_write_it(value: Any, text: str) -> None:
    assert Document(tree(value)).words == text


def test_what_is_nested_folds_and_says_how_much_there_is() -> None:
    found = Document(tree({"a": {"b": {"c": {"d": {"e": 1}}}}, "many": [0] * 20}))
    folds = [attrs for tag, attrs in found.tags if tag == "details"]
    assert ["open" in attrs for attrs in folds] == [True, True, False, False, False]
    assert "20 items" in found.words
    assert len({attrs["data-key"] for attrs in folds}) == len(folds)


def test_a_fold_keeps_its_key_while_its_value_changes() -> None:
    keys = [
        [
            a["data-key"]
            for t, a in Document(tree(value, key="s")).tags
            if t == "details"
        ]
        for value in ({"x": 1, "a": {"b": 1}}, {"a": {"b": 2, "c": 3}})
    ]
    assert keys[0] == keys[1]


CHANGES: List[Tuple[Any, Any, int]] = [
    ({"a": 1, "b": 2}, {"a": 1, "b": 3}, 1),
    ({"a": 1}, {"a": 1}, 0),
    ({"a": 1}, {"a": 1, "b": 2}, 1),
    ({"a": 1}, {"a": 1.0}, 1),
    ({"a": math.nan}, {"a": math.nan}, 0),
    ([1, 2, 3], [1, 9, 3], 1),
    ([1, 2, 3], [1, 2], 2),
    ("x", "y", 1),
    ({"a": {"b": [1, {"c": 1}]}}, {"a": {"b": [1, {"c": 2}]}}, 4),
    ({"a": {"b": 1}}, {"a": {"b": 1}}, 0),
    (None, {"a": 1}, 1),
]


@pytest.mark.parametrize(("before", "after", "marks"), CHANGES)
def test_what_has_changed_is_marked(before: Any, after: Any, marks: int) -> None:
    assert len(Document(tree(after, before)).marked()) == marks


def test_without_a_value_before_nothing_is_marked() -> None:
    assert Document(tree({"a": 1})).marked() == []


def test_a_tree_is_bounded_in_rows_and_in_depth() -> None:
    wide = Document(tree({"a": list(range(100_000))}))
    assert len(wide.tags) < 4 * MAX_ROWS
    assert "98,001 more" in wide.words
    deep: Any = 1
    for _ in range(500):
        deep = {"x": deep}
    assert len(tree(deep, {"x": 1})) < 20_000


def test_a_long_text_folds() -> None:
    found = tree("word " * 1000)
    assert "<details" in found
    assert "4,900 more characters" in found


values = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(2**63), 2**64 - 1)
    | some.floats()
    | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
    max_leaves=20,
)


@given(value=values, before=values)
def test_any_value_gives_well_formed_html(value: Any, before: Any) -> None:
    html = tree(value, before)
    as_xml = re.sub(r"<details([^>]*) open>", r'<details\1 open="">', str(html))
    # XML has no place for control characters, HTML has.
    as_xml = re.sub(
        "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", as_xml
    )
    ET.fromstring(as_xml)


@given(value=values)
def test_a_value_is_the_same_as_its_copy(value: Any) -> None:
    assert same(value, json.loads(json.dumps(value)))


# --- words ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0000021, "2 µs"),
        (0.042, "42 ms"),
        (0.99999, "1.0 s"),
        (3.21, "3.2 s"),
        (42.4, "42 s"),
        (185, "3 min 05 s"),
        (7440, "2 h 04 min"),
        (200_000, "2 d 07 h"),
        (-3, "0 µs"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 10, "0 %"),
        (1, 1000, "< 1 %"),
        (999, 1000, "> 99 %"),
        (10, 10, "100 %"),
        (1, 0, ""),
    ],
)
def test_a_share_is_all_or_nothing_only_when_it_is(
    part: int, whole: int, text: str
) -> None:
    assert words.share(part, whole) == text


def test_ages_and_dates_are_never_too_odd() -> None:
    assert words.ago(0.4) == "now"
    assert words.ago(12.2) == "12 s ago"
    for odd in (math.nan, math.inf, -math.inf, 1e300, -1e300):
        words.ago(odd), words.date(odd), words.clock(odd), words.iso(odd)
        words.rate(odd), words.real(odd), words.count(odd), words.about(odd)


# --- a run's page ---------------------------------------------------------------------


def test_the_head_says_what_since_when_and_how_it_is() -> None:
    reason = "no progress for 60 s"
    stalled = a_run(state="stalled", reason=reason, progress=NOW - 80, promise=60.0)
    shown = view.head(stalled, NOW)
    assert "stalled no progress for 60 s" in said(shown)
    assert "Running for 1 min 40 s" in said(shown)
    assert "Newest data 5 s ago" in said(shown)
    assert "Last progress 1 min 20 s ago" in said(shown)
    assert "Progress promised within 1 min 00 s" in said(shown)
    assert shown.parts["title"] == "stalled · exp · Episight"


def test_an_ended_run_is_complete_or_says_what_is_missing() -> None:
    ended = a_run(state="completed", ended=NOW - 40)
    assert "Data complete" in said(view.head(ended, NOW))
    assert "Took 1 min 00 s" in said(view.head(ended, NOW))
    missing = said(view.head({**ended, "missing": 3}, NOW))
    assert "3 records missing" in missing
    assert "Data complete" not in missing
    lost = said(view.head({**ended, "sources": {"ended": 2, "lost": 1}}, NOW))
    assert "1 source lost: whether there was more to tell is not known" in lost
    assert "Data complete" not in lost
    assert "Data complete" not in said(view.head(a_run(), NOW))


def test_what_the_sources_dropped_is_said() -> None:
    shown = view.head(a_run(dropped={"memory_log_lines": 1200}), NOW)
    assert "memory log lines 1,200" in said(shown)


def test_a_failed_run_shows_its_error() -> None:
    error = {
        "type": "ValueError",
        "message": "<b>no</b>",
        "traceback": "line 1\nline 2",
    }
    shown = view.head(a_run(state="failed", ended=NOW, error=error), NOW)
    assert "ValueError" in Document(shown.parts["error"]).words
    assert "<b>no</b>" in Document(shown.parts["error"]).text
    assert "line 1\nline 2" in Document(shown.parts["error"]).text
    assert view.head(a_run(), NOW).parts["error"] == ""


def test_a_mode_shows_its_numbers() -> None:
    shown = said(view.modes(a_run(), {"train": 1234.5}, NOW))
    for text in ("10 of 20 episodes", "about 20 s left", "correct 7", "confused 3"):
        assert text in shown
    assert "Success 70 %" in shown
    assert "Steps/s 1,230" in shown
    assert "Epoch 3" in shown


def test_a_mode_that_is_only_expected_is_shown_too() -> None:
    expected = {"episodes": {"eval": 5}, "steps": {}, "epochs": {}}
    assert "0 of 5 episodes" in said(view.modes(a_run(expected=expected), {}, NOW))


def test_outcomes_fill_the_bar_successes_first() -> None:
    mode = a_mode(outcomes={"timeout": 5, "error": 1, "correct": 2}, lost=2)
    bars = view.outcomes(mode, ("correct",))
    assert [bar.name for bar in bars] == ["correct", "timeout", "lost", "error"]
    assert [bar.tone for bar in bars] == ["good", "plain-1", "warn", "bad"]
    assert sum(bar.width for bar in bars) == pytest.approx(100)
    many = view.outcomes(a_mode(outcomes={str(n): 1 for n in range(20)}), ())
    assert (len(many), many[-1].name, many[-1].number) == (8, "13 other outcomes", 13)


def test_few_scores_keep_their_order_of_many_the_highest_are_shown() -> None:
    bars, zero, more = view.scores({"a": 1.0, "b": -1.0, "c": 3.0})
    assert [bar.name for bar in bars] == ["a", "b", "c"]
    assert [bar.tone for bar in bars] == ["", "", "best"]
    assert (zero, more) == (25.0, 0)
    assert (bars[1].start, bars[1].width) == (0.0, 25.0)
    bars, _, more = view.scores({str(n): float(n) for n in range(77)})
    assert ([bar.name for bar in bars][:2], len(bars), more) == (["76", "75"], 12, 65)


def test_the_longest_bar_is_the_highest_scores_though_all_are_negative() -> None:
    bars, zero, _ = view.scores({"a": -10.0, "b": -14.0})
    assert [bar.width for bar in bars] == [100.0, 20.0]
    assert ([bar.start for bar in bars], zero) == ([0.0, 0.0], 0.0)
    assert view.scores({"a": -3.0})[0][0].width == 100.0


@pytest.mark.parametrize("others", [{}, {"c": 1.0}, {"c": -1.0}, {"c": -1.7e308}])
def test_however_large_scores_are_their_bars_have_a_length(
    others: Dict[str, float],
) -> None:
    huge = {"a": 1.7e308, "b": -1.7e308, **others}
    bars, zero, _ = view.scores(huge)
    for bar in bars:
        assert 0 <= bar.start <= bar.start + bar.width <= 100 + 1e-9
    assert 0 <= zero <= 100
    assert [bar.number for bar in bars] == [*huge.values()]


def test_scores_that_are_no_numbers_draw_no_bar() -> None:
    bars, _, _ = view.scores({"a": math.nan, "b": math.inf, "c": 2.0})
    assert [bar.width for bar in bars] == [0.0, 100.0, 100.0]
    html = view.moment(view.Moment("r", a_source(), scores={"a": math.nan}), NOW)
    assert "nan" in said(html)
    assert view.scores({}) == ([], 0.0, 0)


def a_moment(**changes: Any) -> view.Moment:
    values: Dict[str, Any] = {
        "run": "r 1",
        "source": a_source(),
        "episode": an_episode(),
        "step": 17,
        "at": NOW - 3,
        **changes,
    }
    return view.Moment(**values)


def test_the_moment_says_where_the_source_stands() -> None:
    text = said(view.moment(a_moment(), NOW))
    for part in ("3 s ago", "Epoch 1", "Episode 4", "Step 17", "matching", "mug"):
        assert part in text


def test_a_moment_that_was_never_seen_says_so() -> None:
    empty = {"episode": None, "at": None, "step": 0}
    assert "no step has come" in said(view.moment(a_moment(**empty), NOW))
    ended = a_moment(**empty, source=a_source(state="ended"))
    assert "is not kept" in said(view.moment(ended, NOW))
    nobody = a_moment(**empty, source=None)
    assert "no such source" in said(view.moment(nobody, NOW))


def test_an_image_has_an_address_of_its_own_for_each_version() -> None:
    image = view.ShownImage("a/b?.png", (10, 20, 3), "|u1", 2, NOW - 4, "7")
    html = view.moment(a_moment(images=(image,)), NOW).parts["images"]
    ((_, attrs),) = [found for found in Document(html).tags if found[0] == "img"]
    source = "ab" * 16
    assert attrs["src"] == f"./r%201/sources/{source}/images/a%2Fb%3F.png.png?v=7"
    assert attrs["data-src"] == attrs["src"]
    assert (attrs["width"], attrs["height"], attrs["alt"]) == ("20", "10", "a/b?.png")
    assert "20 × 10, every 2. pixel, 4 s ago" in Document(html).words


def a_standing(number: int, **changes: Any) -> Standing:
    found = Standing(f"{number:032x}", f"host:{number}", NOW, 10, NOW - 3)
    return found._replace(**changes)


def test_between_sources_one_can_switch() -> None:
    one = a_standing(1, step=17, mode="eval", target="mug", rate=2.5)
    shown = view.sources_strip([one, a_standing(2)], one.source, NOW)
    html = Document(all_html(shown))
    links = [attrs for tag, attrs in html.tags if tag == "a"]
    assert [link["href"][-3:] for link in links] == ["ent"] * 2  # back to the moment
    assert [link.get("aria-current") for link in links] == ["true", None]
    for said_of_it in ("host:1", "step 17", "2.5 steps/s", "3 s ago", "eval, mug"):
        assert said_of_it in html.text
    assert "between episodes" in html.text


def test_one_source_needs_no_strip_but_to_be_found() -> None:
    one = a_standing(1)
    assert view.sources_strip([one], one.source, NOW).lists == {"strip": {}}
    assert len(view.sources_strip([one], "cd" * 16, NOW).lists["strip"]) == 1


def test_episodes_have_a_column_for_each_result_and_a_link_to_their_trace() -> None:
    rows = {7: an_episode(), 6: an_episode(results={"error": 0.123456}, outcome="lost")}
    shown = view.episodes("r", rows, ("correct",), "http://t/{trace_id}?x=1")
    assert [*shown.lists["episodes"]] == ["episode-7", "episode-6"]
    assert "return error Target" in " ".join(re.findall(r"\w+", said(shown)))
    assert 'href="http://t/0123456789abcdef0123456789abcdef?x=1"' in all_html(shown)
    assert "0.1235" in said(shown)
    assert "http" not in all_html(view.episodes("r", rows, (), ""))
    nothing = {1: an_episode(target=None)}
    assert "Target" not in said(view.episodes("r", nothing, (), ""))


def test_a_log_line_that_was_drawn_is_not_drawn_again() -> None:
    line = {
        "time": NOW, "level": "warning", "message": "careful", "logger": "agent",
        "fields": {"a": 1}, "trace_id": "", "source": "",
    }  # fmt: skip
    first = view.log({1: line}, "", {}).lists["log"]
    again = view.log({1: line, 2: line}, "", first).lists["log"]
    assert again["log-1"] is first["log-1"]
    assert "warning careful a=1 agent" in Document(again["log-2"]).words


def test_sources_show_what_they_do_and_what_is_wrong_with_them() -> None:
    found = [
        a_source(open=[an_episode(outcome=None)] * 5),
        a_source(source="cd" * 16, state="lost", lost=NOW, missing=2, clock_skew=-7.0),
        a_source(source="ef" * 16, host="", name=":0"),
    ]
    shown = said(view.sources(a_run(), found, 3, "ab" * 16))
    assert "train 4, 40 steps, matching, mug" in shown
    assert "and 2 more open" in shown
    assert "2 missing" in shown
    assert "clock 7.0 s ahead" in shown
    assert "efefefef" in shown
    assert "3 sources more are not listed" in shown


def test_about_shows_what_the_run_said_of_itself() -> None:
    launch = {"command": ["python", "my exp.py"], "host": "h"}
    run = a_run(config={"lr": 0.1}, tags={"a": "b"}, launch=launch)
    shown = said(view.about(run))
    assert "Command python 'my exp.py'" in shown
    assert "Config Search lr 0.1" in shown
    assert "said nothing" in said(view.about(a_run()))


def test_a_command_can_be_copied_where_all_of_it_is_shown() -> None:
    short = view.about(a_run(launch={"command": ["a.py", "x" * 3000]}))
    assert 'data-copy="command"' in short.parts["about"]
    long = view.about(a_run(launch={"command": ["a.py", "x" * 9000]}))
    assert "xxx…" in said(long)
    assert "data-copy" not in long.parts["about"]


def test_several_hosts_are_named_as_far_as_there_is_room() -> None:
    def hosts(*names: str) -> str:
        return said(view.about(a_run(launch={"host": "n0"}, hosts=names)))

    assert "hosts" not in hosts("n0")
    assert "hosts n0, n1" in hosts("n0", "n1")
    some = [f"n{number}" for number in range(8)]
    assert some[-1] in hosts(*some)
    many = hosts(*some, "n8", "n9")
    assert "n6, and 3 more" in many
    assert "n7" not in many


UNDER_WAY = {
    "an open episode": ({"open_modes": {"eval"}}, {}, ["eval"]),
    "steps of late": ({}, {"train": 2.0, "eval": 0.0}, ["train"]),
    "in the order of the modes": (
        {"open_modes": {"other", "eval", "train"}},
        {"eval": 1.0},
        ["train", "eval", "other"],
    ),
    "none": ({}, {"train": 0.0}, []),
    "one that has ended": (
        {"state": "failed", "open_modes": {"eval"}},
        {"eval": 1.0},
        [],
    ),
    "many": (
        {"open_modes": {f"m{number}" for number in range(8)}},
        {},
        ["m0", "m1", "m2", "m3", "m4", "m5", "and 2 more"],
    ),
}


@pytest.mark.parametrize("name", UNDER_WAY)
def test_the_modes_that_go_on_are_named(name: str) -> None:
    changes, rates, expected = UNDER_WAY[name]
    run = a_run(modes={"train": a_mode(), "eval": a_mode()}, **changes)
    html = view.under_way(run, rates).parts["under-way"]
    assert re.findall(r"<li>([^<]*)</li>", html) == expected


def test_of_a_run_that_is_gone_nothing_goes_on_and_nothing_can_be_asked() -> None:
    parts = view.gone("r-1").parts
    assert (parts["under-way"], parts["order"], parts["removal"]) == ("", "", "")


# --- the list -------------------------------------------------------------------------


def a_list(*runs: Dict[str, Any], **changes: Any) -> view.RunList:
    values: Dict[str, Any] = {
        "runs": runs,
        "total": len(runs),
        "matching": len(runs),
        "live": sum(run["state"] == "running" for run in runs),
        "refused": (),
        "addresses": (("Page", "http://h:1"), ("Sources", "tcp://h:2")),
        **changes,
    }
    return view.RunList(**values)


def test_what_could_not_be_used_is_said_with_who_was_first() -> None:
    losses = view.Losses(
        {"malformed": 1200},
        {"contradiction": 2},
        {"budget": 7},
        {"<b>": "experiment_<i> (budget)"},
        {"deleted": 12},
        "503: <down>",
    )
    shown = view.run_list(a_list(losses=losses), NOW).parts["losses"]
    text = said(view.run_list(a_list(losses=losses), NOW))
    assert "1,200 messages: malformed" in text
    assert "7 series: budget" in text
    assert "experiment_<i> (budget)" in text
    assert "2 records: contradiction" in text
    assert "12 spans not delivered: deleted" in text
    assert "takes nothing now: 503: <down>" in text
    assert "<b>" not in shown
    assert view.run_list(a_list(), NOW).parts["losses"] == ""


def test_an_empty_list_says_how_to_send_a_first_run() -> None:
    shown = view.run_list(a_list(), NOW)
    text = Document(shown.parts["first-run"]).text
    assert 'os.environ["EPISIGHT_ENDPOINT"] = "tcp://h:2"\n' in text
    assert "http://h:1" in text
    assert view.run_list(a_list(a_run()), NOW).parts["first-run"] == ""
    assert view.run_list(a_list(total=3), NOW).parts["first-run"] == ""


def test_the_list_shows_each_run_briefly() -> None:
    shown = view.run_list(a_list(a_run(tags={"suite": "x"})), NOW)
    text = said(shown)
    for part in ("exp", "r-1", "running", "suite x", "10 of 20 episodes", "500 steps"):
        assert part in text
    for part in ("correct 7", "1 live", "Newest 5 s ago"):
        assert part in text
    assert 'href="./runs/r-1"' in all_html(shown)
    assert shown.parts["title"] == "1 live · Runs · Episight"


def test_the_list_says_how_many_of_how_many() -> None:
    filtered = view.run_list(a_list(a_run(), total=9, matching=4), NOW)
    assert "4 of 9 runs match, the first 1 are listed" in said(filtered)


@pytest.mark.parametrize("runs", [(), (a_run(),)])
def test_refused_connections_are_shown(runs: Any) -> None:
    refused = (view.Refused(NOW - 30, "node-7", "install the same version"),)
    text = said(view.run_list(a_list(*runs, refused=refused), NOW))
    assert "node-7 30 s ago: install the same version" in text


# --- nothing that is said is ever run -------------------------------------------------


def hostile_page() -> List[view.Shown]:
    """Every fragment, with what an experiment may say made hostile."""
    error = {"type": HOSTILE, "message": HOSTILE, "traceback": HOSTILE}
    run = a_run(
        run=HOSTILE, experiment=HOSTILE, reason=HOSTILE, error=error,
        modes={HOSTILE: a_mode(outcomes={HOSTILE: 1}, results={HOSTILE: 1.0})},
        epochs={HOSTILE: 1}, dropped={HOSTILE: 1}, tags={HOSTILE: HOSTILE},
        config={HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]}, facts={HOSTILE: HOSTILE},
        launch={"command": [HOSTILE]}, success=(HOSTILE,), state="failed", ended=NOW,
    )  # fmt: skip
    episode = an_episode(
        mode=HOSTILE, outcome=HOSTILE, target=HOSTILE, phase=HOSTILE,
        results={HOSTILE: 1.0}, error=error, trace_id=HOSTILE, last_seen=True,
    )  # fmt: skip
    source = a_source(
        name=HOSTILE, process=HOSTILE, role=HOSTILE, python=HOSTILE, version=HOSTILE,
        ending=HOSTILE, error=error, open=[episode],
    )  # fmt: skip
    value = view.ShownValue(HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: 1}, NOW)
    image = view.ShownImage(HOSTILE, (2, 2), HOSTILE, 1, NOW, HOSTILE)
    moment = view.Moment(
        HOSTILE, source, episode, 1, NOW, (value,), {HOSTILE: 1.0},
        (image,), (value,),
    )  # fmt: skip
    line = {
        "time": NOW, "level": HOSTILE, "message": HOSTILE, "logger": HOSTILE,
        "fields": {HOSTILE: HOSTILE}, "trace_id": HOSTILE, "source": HOSTILE,
    }  # fmt: skip
    last_seen = {
        "source": HOSTILE, "trace_id": HOSTILE, "mode": HOSTILE, "epoch": 1,
        "index": None, "target": HOSTILE, "seen": NOW, "step": 3,
        "state": {HOSTILE: HOSTILE}, "scores": {HOSTILE: 1.0}, "logs": [line],
        "images": [{"name": HOSTILE, "shape": [2, 2], "dtype": HOSTILE, "stride": 2}],
        "omitted": 1,
    }  # fmt: skip
    refused = (view.Refused(NOW, HOSTILE, HOSTILE),)
    standing = a_standing(1, name=HOSTILE, mode=HOSTILE, step=1, target=HOSTILE)
    spec = wire.MetricSpec(HOSTILE, "histogram", HOSTILE)
    curve, labels = Curve([NOW - 5, NOW], [1.0, 2.0]), ((HOSTILE, HOSTILE),)
    series = Series(1, spec, labels, 1.0, 1.0, NOW, True, curve)
    seen = Seen(1, NOW, NOW, {HOSTILE: Speed(curve)}, (series,), 1)
    lately = trends.Lately({HOSTILE: {HOSTILE: (1.0, 2.0)}}, [episode])
    order = {
        "id": "stop-1", "command": HOSTILE, "when": HOSTILE, "reason": HOSTILE,
        "by": HOSTILE, "at": NOW, "source": HOSTILE, "standing": True,
        "states": {HOSTILE: 1, "done": 60},
        "sources": [
            {"source": HOSTILE, "name": HOSTILE, "state": HOSTILE, "detail": HOSTILE}
        ] * 2,
    }  # fmt: skip
    takes = {"takes": [HOSTILE, "stop"], "known": True, "given": [order], "more": 1}
    takes["deletable"] = True
    live = a_run(run=HOSTILE, commands=takes, sources={"live": 2})
    live["open_modes"] = {HOSTILE}
    return [
        view.gone(HOSTILE),
        commands.form(live, {**source, "commands": ["stop"]}),
        commands.given(live),
        view.under_way(live, {}),
        view.head(run, NOW),
        view.modes(run, {HOSTILE: 1.0}, NOW),
        trends.modes(run, lately, seen),
        trends.metrics(seen, False),
        view.moment(moment, NOW),
        view.sources_strip([standing], "", NOW),
        view.own(OURS, Drawing({HOSTILE: Markup("{{7*7}}")}, HOSTILE)),
        view.episodes(HOSTILE, {1: episode}, (HOSTILE,), "http://t/{trace_id}"),
        view.last_seen(HOSTILE, last_seen),
        view.log({1: line}, "http://t/{trace_id}", {}),
        view.sources(run, [source], 1, ""),
        view.about(run),
        commands.form({**live, "state": "failed"}, None),
        view.run_list(a_list(run, refused=refused), NOW),
        view.run_list(a_list(addresses=(("Sources", HOSTILE),)), NOW),
    ]


def test_whatever_is_said_is_text() -> None:
    for shown in hostile_page():
        found = Document(all_html(shown))
        assert not {"script", "style", "iframe"} & {tag for tag, _ in found.tags}
        for tag, attrs in found.tags:
            assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
            assert tag != "img" or attrs["src"].startswith("./")
        assert HOSTILE[:40] in found.text
        assert "{{7*7}}" in found.text


def test_a_document_is_escaped_too() -> None:
    shown = view.Shown()
    for one in hostile_page()[:-2]:
        shown |= one
    shown.lists.setdefault("log", {})
    html = view.page("run.html", shown, version="1", root="", socket="", run=HOSTILE)
    assert html.count("<script") == html.count('<script src="static/') == 3  # our own
    values = {"version": "1", "root": "", "socket": "", "run": HOSTILE}
    html = view.page("missing.html", view.Shown(), **values)
    assert html.count("<script") == 1


def test_no_template_marks_anything_as_safe_or_has_styles_or_scripts_inside() -> None:
    assert "run.html" in OURS.templates()
    for name in OURS.templates():
        source = OURS.source(name)
        assert "|safe" not in source.replace(" ", "")
        assert "autoescape" not in source
        assert "style=" not in source
        assert not re.search(r"\son\w+=", source)
        assert not re.search(r"<script(?![^>]*src=)", source)
        assert "http://" not in source
        assert "https://" not in source


def test_all_fragments_of_a_run_have_a_place_on_its_page() -> None:
    shown = view.Shown()
    for one in hostile_page()[:-2]:
        shown |= one
    html = view.page("run.html", shown, version="1", root="", socket="", run="r")
    ids = {attrs.get("id") for _, attrs in Document(html).tags}
    assert shown.parts.keys() | shown.lists.keys() <= ids
