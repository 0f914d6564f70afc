"""README and docs: their code runs, their tables are the code's, their links lead on.

Convention of the pages: the ``python`` blocks of a section, from one ``##`` heading to
the next, are one script. It runs in a process and a directory of its own against a real
exporter; a section that defines ``test_...`` is given to pytest instead. A line
``print(x)  # text`` has to print that text. Nothing may be warned of or dropped, and
every run has to end as completed, unless a comment above the block says otherwise::

    <!-- test: state stopped; status -2; arguments +lr=0.1; warns -->

Where it says ``own``, the section has a test of its own.

Runs on every Python: sections whose imports are not installed are skipped.
"""

import ast
import importlib.util
import inspect
import json
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import pytest

import experiment_hooks as eh
from tests.support import (
    ROOT,
    RUNS_EXPORTER,
    Exporter,
    Pythons,
    eventually,
    parse_metrics,
)

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_LINKS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]

needs_exporter = pytest.mark.skipif(
    not RUNS_EXPORTER, reason="the exporter is of a newer Python"
)


# --- reading a page ------------------------------------------------------------------


class Block(NamedTuple):
    """A fenced block: its language, its text, and the text above it in its section."""

    language: str
    text: str
    above: str


class Section(NamedTuple):
    """What is under one ``##`` heading; its blocks in order, the rest as ``prose``."""

    page: Path
    heading: str
    blocks: List[Block]
    prose: str

    def code(self, language: str) -> str:
        return "\n\n".join(b.text for b in self.blocks if b.language == language)

    def option(self, name: str) -> Optional[str]:
        """What a ``<!-- test: ... -->`` says under this name; "" for a bare word."""
        for comment in re.findall(r"<!-- test: (.*?) -->", self.prose):
            for item in comment.split(";"):
                word, _, value = item.strip().partition(" ")
                if word == name:
                    return str(value)
        return None

    def __str__(self) -> str:
        return f"{self.page.stem}#{slug(self.heading)}"


def sections(page: Path) -> List[Section]:
    found: List[Section] = []
    heading, blocks, prose = "", [], [""]  # type: str, List[Block], List[str]
    fence: Optional[Tuple[str, List[str]]] = None
    for line in [*page.read_text(encoding="utf-8").splitlines(), "## "]:
        if fence is not None:
            if line.startswith("```"):
                blocks.append(Block(fence[0], "\n".join(fence[1]), "\n".join(prose)))
                fence = None
            else:
                fence[1].append(line)
        elif line.startswith("```"):
            fence = line[3:].strip(), []
        elif line.startswith("## "):
            found.append(Section(page, heading, blocks, "\n".join(prose)))
            heading, blocks, prose = line[3:], [], [""]
        else:
            prose.append(line)
    assert fence is None, f"{page}: a block is not closed"
    return found


def section(page: str, heading: str) -> Section:
    (found,) = [one for one in sections(ROOT / page) if one.heading == heading]
    return found


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def rows(text: str) -> List[List[str]]:
    """The rows of the tables in a text, without the heads."""
    found: List[List[str]] = []
    for line in text.splitlines():
        if re.fullmatch(r"\|[-:| ]+\|", line):
            found.pop()  # what came before it was the head
        elif line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found.append([cell.strip() for cell in cells])
    return found


def words(cell: str) -> List[str]:
    """What is written as code in a cell."""
    return re.findall(r"`([^`]+)`", cell)


SCRIPTS = [
    one
    for page in PAGES
    for one in sections(page)
    if one.code("python") and one.option("own") is None
]


# --- the code runs -------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    exporter = Exporter(
        tmp_path_factory.mktemp("exporter"),
        "tap.port=0",
        # Nobody is there; but what is sent somewhere has metrics.
        env={
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "EPISIGHT_NOTIFY_WEBHOOK_URL": "http://127.0.0.1:9/",
        },
    )
    try:
        yield exporter.start()
    finally:
        exporter.stop()


@pytest.fixture
def exporter(shared_exporter: Exporter, show_log: Callable[[Path], None]) -> Exporter:
    show_log(shared_exporter.log)
    return shared_exporter


def test_every_page_with_code_is_found() -> None:
    pages = {one.page.name for one in SCRIPTS}
    assert {"README.md", "instrument.md", "gymnasium.md", "hydra.md"} <= pages


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_the_code_of_each_section_runs(
    script: Section, exporter: Exporter, run_python: Pythons
) -> None:
    code = script.code("python")
    skip_unless_installed(code)
    if "def test_" in code:
        run_python(f"{code}\n\n{RUN_PYTEST}", env=exporter.env)
        return
    before = {run["run"] for run in exporter.runs()}
    said = run_python(
        code,
        *(script.option("arguments") or "").split(),
        env={**exporter.env, "EPISIGHT_STRICT": "1"},
        status=int(script.option("status") or 0),
    )
    for text in re.findall(r"^ *print\(.*\)  # (.+)$", code, re.MULTILINE):
        assert text in said.output.splitlines()
    state = script.option("state") or "completed"
    for run in ended_runs(exporter, before):
        assert (run["state"], run["missing"]) == (state, 0), run
        if script.option("warns") is None:
            assert run["dropped"] == {}
            assert not re.search(r"episight: (?!http)", said.output), said.output


RUN_PYTEST = """
if __name__ == "__main__":
    import sys, pytest
    sys.exit(pytest.main([__file__, "-q", "-p", "no:cacheprovider"]))
"""


def skip_unless_installed(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if importlib.util.find_spec(name.partition(".")[0]) is None:
                pytest.skip(f"{name} is not installed")


def ended_runs(exporter: Exporter, before: Set[str]) -> List[Dict[str, Any]]:
    """The runs that were not there before, all ended; at least one."""

    def found() -> List[str]:
        new = [run for run in exporter.runs() if run["run"] not in before]
        assert all(run["ended"] for run in new), new
        return [run["run"] for run in new]

    return [exporter.run(run) for run in eventually(found, what="the run's end")]


def test_the_listener_on_the_tap_prints_how_episodes_end(
    exporter: Exporter, run_python: Pythons
) -> None:
    code = section("docs/tap.md", "Listen").code("python")
    assert code.count("tcp://127.0.0.1:5556") == 1
    listener = run_python.start(code.replace("tcp://127.0.0.1:5556", exporter.tap))
    experiment = """
        import experiment_hooks as eh

        with eh.open_run("tapped") as run, run.episode() as ep:
            ep.finish("grasped", results={"return": 2.0})
    """

    def heard() -> bool:  # it may not have been connected at the first
        run_python(experiment, env=exporter.env)
        return "grasped {'return': 2.0}" in listener.output

    eventually(heard, what="an episode's end")


def test_the_configuration_for_hydra_makes_a_run_of_the_job(
    exporter: Exporter, run_python: Pythons
) -> None:
    pytest.importorskip("hydra", reason="Hydra is not installed")
    (block,) = [
        one
        for part in sections(ROOT / "docs" / "hydra.md")
        for one in part.blocks
        if one.language == "yaml"
    ]
    (run_python.directory / "config.yaml").write_text(block.text)
    before = {run["run"] for run in exporter.runs()}
    run_python(
        """
        import hydra
        import experiment_hooks as eh

        @hydra.main(version_base="1.3", config_path=".", config_name="config")
        def main(config):
            with eh.current_run().episode() as ep:
                ep.finish("grasped")

        main()
        """,
        env=exporter.env,
    )
    (run,) = ended_runs(exporter, before)
    assert run["state"] == "completed"
    assert run["modes"]["train"]["successes"] == 1


def test_the_warnings_that_are_explained_are_those_that_come(
    run_python: Pythons,
) -> None:
    said = run_python(
        """
        import experiment_hooks as eh

        with eh.open_run("unwatched") as run:
            run.counter("bad name")
        """,
        env={"EPISIGHT_ENDPOINT": "tcp://127.0.0.1:9"},
    )
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [line.strip() for line in page.splitlines() if "    episight: " in line]
    seen = said.output.replace("127.0.0.1:9", "127.0.0.1:5555")
    assert [line for line in quoted if line in seen] == [
        line for line in quoted if "refuses" not in line
    ]


# --- Prometheus ----------------------------------------------------------------------


def test_the_scrape_configuration_and_the_queries_work(
    exporter: Exporter,
    run_python: Pythons,
    prometheus_process: Callable[..., Any],
) -> None:
    run_python(
        section("README.md", "Instrument your loop").code("python"), env=exporter.env
    )
    readme = section("README.md", "See it in Prometheus")
    config = readme.code("yaml").replace("5s", "500ms")
    config = config.replace("127.0.0.1:8000", exporter.web.split("//")[1])
    assert config.count(exporter.web.split("//")[1]) == 1
    prometheus = prometheus_process(config=config)
    queries = readme.code("promql").splitlines()
    for query in queries[:3]:
        eventually(lambda query=query: prometheus.query(query), what=query)  # type: ignore[misc]
    for query in [
        *queries,
        *section("docs/verdicts.md", "Alerts").code("promql").split("\n"),
    ]:
        prometheus.query(query)  # fails where it is none


# --- tables of metrics ---------------------------------------------------------------


def documented_metrics() -> Dict[str, Tuple[str, List[str], str]]:
    found = {}
    for name, kind, labels, text in rows(section("README.md", "The metrics").prose):
        (word,) = words(name)
        found[word] = (kind, words(labels), text)
    return found


@needs_exporter
def test_the_tables_of_metrics_are_those_of_the_code(exporter: Exporter) -> None:
    from exporter.names import RUN_FAMILIES

    expected = {}
    for name, (kind, text) in RUN_FAMILIES.items():
        expected[f"{name}_total" if kind == "counter" else name] = (kind, text)
    page = exporter.get("/metrics").text
    for name, kind in re.findall(r"^# TYPE (episight_\S+) (\S+)$", page, re.MULTILINE):
        (text,) = re.findall(rf"^# HELP {name} (.*)$", page, re.MULTILINE)
        expected[name] = (kind, text)
    documented = documented_metrics()
    assert {name: (row[0], row[2]) for name, row in documented.items()} == expected


NO_METRICS = {"experiment_hooks", "episight_default", "episight_connection"}
"""A package, a network of containers, a variable of nginx."""

OF_EXAMPLES = {"experiment_grasps_total", "experiment_joint_angle", "experiment_loss"}
"""What experiments count for themselves; of Monty's there is a table of its own."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_metric_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.-])(?:experiment|episight)_\w+", text))
    if page.name == "monty.md":
        named = {name for name in named if not name.startswith("experiment_monty_")}
    named -= NO_METRICS | OF_EXAMPLES
    known = set(documented_metrics())
    of_histograms = {re.sub("_(bucket|count|sum)$", "", one) for one in named - known}
    assert of_histograms <= known


def test_the_labels_of_the_metrics_are_those_that_are_served(
    exporter: Exporter, run_python: Pythons
) -> None:
    run_python(
        """
        import experiment_hooks as eh

        modes = {"train": 1}
        with eh.open_run(
            "labels", run_id="labels", promise=30, success={"ok"}, info={"lr": 0.1},
            expected_episodes=modes, expected_steps=modes, expected_epochs=modes,
        ) as run:
            with run.episode(epoch=0) as ep, ep.phase("act"):
                ep.step()
                ep.finish("ok", results={"return": 1.0})
        """,
        env={**exporter.env, "SLURM_JOB_ID": "7", "USER": "me"},
    )
    own = {"experiment", "run", "le"}
    documented = documented_metrics()
    seen: Dict[str, Set[str]] = {}
    for sample in parse_metrics(exporter.get("/metrics").text):
        if sample.labels.get("run") != "labels":
            continue
        name = re.sub(r"_(bucket|count|sum)$", "", sample.name)
        seen.setdefault(name, set()).update(set(sample.labels) - own)
    # Those of a run that goes on have a promise, of others the table may be right.
    assert len(seen) >= len([name for name in documented if "experiment" in name]) - 1
    info = seen.pop("experiment_run_info") - {"lr", "git_commit"}
    assert info == set(documented["experiment_run_info"][1]) - {"git_commit"}
    for name, labels in seen.items():
        assert labels == set(documented[name][1]), name


# --- configuration -------------------------------------------------------------------


def settings_of_the_code() -> Dict[str, Tuple[str, str]]:
    """Setting -> (variable, default), as conf/exporter.yaml has them."""
    found = {}
    group = ""
    text = (ROOT / "conf" / "exporter.yaml").read_text(encoding="utf-8")
    for line in re.sub(r" #.*", "", text).splitlines():
        head = re.match(r"(\w+):$", line)
        if head:
            group = head[1]
        one = re.match(
            r"  (\w+): (?:\$\{oc\.(?:create|decode):)*\$\{oc\.env:(\w+),(.*?)\}+$", line
        )
        if one:
            found[f"{group}.{one[1]}"] = (one[2], one[3].strip('"'))
    return found


def test_every_setting_is_documented_with_its_variable_and_default() -> None:
    prose = section("docs/configuration.md", "The exporter").prose
    documented = {}
    for row in rows(prose):
        names = words(row[0])
        if "." in names[0]:
            documented[names[0]] = (names[1], "".join(words(row[1])))
    expected = settings_of_the_code()
    assert len(expected) > 10
    # Written for people: the default's own variables are explained there.
    path = "journal.path"
    expected[path] = (expected[path][0], "$XDG_STATE_HOME/episight/journal.sqlite")
    assert documented == expected


@needs_exporter
def test_every_setting_of_the_exporter_is_in_its_configuration() -> None:
    import dataclasses

    from exporter.settings import Settings

    assert {
        f"{group.name}.{one.name}"
        for group in dataclasses.fields(Settings)
        for one in dataclasses.fields(getattr(Settings(), group.name))
    } == set(settings_of_the_code())


def variables(*paths: Path) -> Set[str]:
    found: Set[str] = set()
    for path in paths:
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r"\bEPISIGHT_[A-Z_]*[A-Z]\b", text))
    return found


def sources() -> List[Path]:
    folders = ("experiment_hooks", "exporter", "experiments", "hydra_plugins")
    python = [path for one in folders for path in (ROOT / one).rglob("*.py")]
    return [*python, *(ROOT / "conf").rglob("*.yaml"), ROOT / "run.sh"]


def test_every_variable_of_the_code_is_documented() -> None:
    assert variables(*sources()) <= variables(ROOT / "docs" / "configuration.md")


def test_every_variable_that_a_page_names_is_in_the_code() -> None:
    assert variables(*PAGES) <= variables(*sources())


def test_every_variable_of_opentelemetry_that_is_honoured_is_documented() -> None:
    code = "".join(
        path.read_text() for path in (ROOT / "exporter" / "traces").glob("*.py")
    )
    of_otlp = re.findall(r'_setting\(environ, "(\w+)"\)', code)
    honoured = {f"OTEL_EXPORTER_OTLP_{name}" for name in of_otlp}
    honoured |= set(re.findall(r'environ\.get\("(OTEL_\w+)"', code))
    assert len(honoured) > 8
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert honoured <= set(re.findall(r"\bOTEL_[A-Z_]*[A-Z]\b", page))


# --- the hooks -----------------------------------------------------------------------


def test_every_argument_of_open_run_is_documented() -> None:
    documented = {
        word
        for row in rows(
            section("docs/instrument.md", "What a run can say of itself").prose
        )
        for word in words(row[0])
    }
    arguments = set(inspect.signature(eh.open_run).parameters)
    assert arguments - documented == {"name"}
    assert documented - arguments == set()


def test_every_argument_of_the_wrapper_is_documented() -> None:
    pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
    from experiment_hooks.integrations.gymnasium import EpisightWrapper

    documented = {
        words(row[0])[0]
        for row in rows(section("docs/gymnasium.md", "One environment").prose)
    }
    arguments = set(inspect.signature(EpisightWrapper.__init__).parameters)
    assert arguments - documented == {"self", "env"}


def test_what_can_be_imported_is_documented() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    words_said = set(re.findall(r"\beh\.(\w+)", text))
    # Base class; what calls return; the version, which `episight check` says.
    left_out = {"EpisightError", "Episode", "Phase", "Run", "Series", "__version__"}
    assert words_said == set(eh.__all__) - left_out


# --- the API -------------------------------------------------------------------------


VOLATILE = {
    "by", "command", "directory", "host", "id", "name", "pid", "platform", "python",
    "source", "sources", "trace_id", "user", "version",
}  # fmt: skip


def assert_shape(documented: Any, actual: Any, where: str) -> None:
    """All that is documented is there, of the same kind; mostly with the same value."""
    if isinstance(documented, dict):
        assert isinstance(actual, dict), where
        for key, value in documented.items():
            assert key in actual, f"{where}.{key}"
            if key not in VOLATILE or isinstance(value, (dict, list)):
                assert_shape(value, actual[key], f"{where}.{key}")
            else:
                assert type(actual[key]) is type(value), f"{where}.{key}"
    elif isinstance(documented, list):
        assert isinstance(actual, list), where
        assert len(actual) == len(documented), where
        for one, other in zip(documented, actual):
            if isinstance(one, dict):
                assert_shape(one, other, f"{where}[]")
    elif isinstance(documented, float):
        assert isinstance(actual, (int, float)), where
    else:
        assert actual == documented, where


def answers_of_api() -> List[Tuple[str, str, Any]]:
    """Method, path and the documented answer of each example."""
    found = []
    for part in sections(ROOT / "docs" / "api.md"):
        for block in part.blocks:
            if block.language == "json":
                method, path = re.findall(r"`(GET|POST) (/\S+)`", block.above)[-1]
                found.append((method, path, json.loads(block.text)))
    return found


LAST_SEEN = "The last thing seen"


def test_the_last_thing_seen_is_as_documented(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    exporter = exporter_process()
    code = section("docs/api.md", LAST_SEEN).code("python")
    run_python(code, env=exporter.env)
    (row,) = eventually(lambda: exporter.episodes("slipping-2"))
    assert row["last_seen"] is True
    ((_, path, documented),) = [
        one for one in answers_of_api() if one[1].endswith("/last_seen")
    ]
    actual = path.replace(documented["trace_id"], row["trace_id"])
    assert_shape(documented, exporter.get(actual).json(), path)


def test_the_answers_of_the_api_are_as_documented(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    exporter = exporter_process()
    parts = sections(ROOT / "docs" / "api.md")
    code = [part.code("python") for part in parts if part.heading != LAST_SEEN]
    run_python("\n".join(code), env=exporter.env)
    eventually(lambda: exporter.run("grasping-7")["ended"])
    examples = [one for one in answers_of_api() if not one[1].endswith("/last_seen")]
    trace_id = exporter.episodes("grasping-7")[0]["trace_id"]
    for method, example, documented in examples:
        path = example.replace(str(documented.get("trace_id")), trace_id)
        if method == "GET" and not path.endswith("/commands"):
            assert_shape(documented, exporter.get(path).json(), path)
    unknown = exporter.get("/api/v1/runs/grasping-8")
    assert (unknown.status, unknown.json()) == (
        404,
        {"error": "there is no run 'grasping-8'"},
    )

    # Commands are for a run that goes on: the same one, resumed.
    child = run_python.start(
        """
        import experiment_hooks as eh

        again = {"run_id": "grasping-7", "resume": True, "stoppable": True}
        with eh.open_run("grasping", **again) as run:
            while True:
                with run.episode(mode="eval") as ep:
                    ep.step()
        """,
        env=exporter.env,
    )
    eventually(lambda: exporter.run("grasping-7")["sources"]["live"])
    ((_, path, answer), (_, _, listed)) = [
        one for one in examples if one[1].endswith("/commands")
    ]
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    (body,) = re.findall(r'^    (\{"command".*\})$', page, re.MULTILINE)
    given = exporter.post(path, json.loads(body))
    assert given.status == 202
    assert_shape(answer, given.json(), f"POST {path}")
    assert child.wait() == 1
    eventually(lambda: exporter.run("grasping-7")["state"] == "stopped")
    assert_shape(listed, exporter.get(path).json(), path)
    assert exporter.delete("/api/v1/runs/grasping-7").status == 204


# --- links ---------------------------------------------------------------------------


def links(page: Path) -> List[str]:
    text = "\n".join(part.prose for part in sections(page))
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda page: str(page.name))
def test_relative_links_lead_somewhere(page: Path) -> None:
    relative = [link for link in links(page) if not re.match(r"\w+:", link)]
    assert [link for link in relative if not leads_somewhere(page, link)] == []


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or not anchor:
        return target.exists()
    text = target.read_text(encoding="utf-8")
    return anchor in map(slug, re.findall(r"^#+ (.*)$", text, re.MULTILINE))


def test_every_page_of_the_docs_is_linked_from_the_readme() -> None:
    linked = set(links(ROOT / "README.md"))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked
