"""A fleet of runs, exporters, and Prometheus and Alertmanager with what ships.

All are real; of the files that ship only addresses, intervals and windows are replaced.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Mapping

from tests.otlp_sink import OtlpSink
from tests.played_fleet import RUNS
from tests.support import (
    ROOT,
    Child,
    Exporter,
    Prometheus,
    clean_environment,
    eventually,
    free_port,
    http,
    python_for,
    require,
)

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = ROOT / "prometheus"
NOBODY = "http://127.0.0.1:9"
"""A port where nobody listens."""

HISTORY = 5.0
"""Seconds after its end when a run that is told of was on a disk; 120 in what ships."""

FASTER = {
    "2h": "30s",
    "1h": "10s",
    "90m": "6s",
    "30m": "5s",
    "15m": "6s",
    "10m": "2s",
    "5m": "3s",
    "2m": "7s",  # Prometheus takes five to know its targets
    "1m": "1s",
}


class Webhook(ThreadingHTTPServer):
    """Keeps the labels of each alert that Alertmanager sends as firing."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), _OneMessage)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self._thread = threading.Thread(target=self.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _OneMessage(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.told += [
            one["labels"] for one in body["alerts"] if one["status"] == "firing"
        ]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *anything: object) -> None:
        pass


class Fleet:
    """Runs of each kind at an exporter; others are in trouble, and one is away.

    Whoever is to be killed has been, and what is replayed was, when it is made.

    Attributes:
        exporter: where the runs are.
        troubled: it has no room and no trace store.
        unwritable: it may not write to any file.
        away: an address that is scraped and does not answer.
        prometheus: scrapes all of them, by the configuration that ships.
        webhook: where Alertmanager tells what fires.
        logs: what each process has written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.logs: list[Path] = []
        self._stop = directory / "stop"
        with ExitStack() as stack:
            self._stack = stack
            self._start()
            self._stack = stack.pop_all()

    def stop(self) -> None:
        self._stop.touch()
        self._stack.close()

    def _start(self) -> None:
        # It ends first, and with nobody there: so its end is history when it is told.
        nobody = {"EPISIGHT_ENDPOINT": f"tcp://127.0.0.1:{free_port()}"}
        replayed = self._play("replayed", nobody)
        replayed.wait()
        ended = time.monotonic()
        sink = self._stack.enter_context(OtlpSink())
        self.exporter = self._exporter(
            "exporter",
            "verdict.lost_seconds=1",
            "traces.lost_after=1",
            "tap.port=0",
            # Nobody is there; but what is sent somewhere has metrics.
            env={**sink.environ, "EPISIGHT_NOTIFY_WEBHOOK_URL": NOBODY},
        )
        self.troubled = self._exporter(
            "troubled",
            "metrics.max_series=10",
            env={"OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY},
        )
        self.unwritable = self._exporter(
            "unwritable", env={"EPISIGHT_TRACES_ENDPOINT": "none"}
        )
        self.away = f"127.0.0.1:{free_port()}"
        self.webhook = Webhook()
        self._stack.callback(self.webhook.stop)
        self.prometheus = self._prometheus(self._alertmanager())
        none_yet = f'episight:losses:total{{instance="{host(self.troubled)}"}} == 0'
        eventually(
            lambda: self.prometheus.query(none_yet), 20.0, "seen before its losses"
        )
        self._play("crowded", self.troubled.env)
        self._play("unwritten", self.unwritable.env)
        children = {
            role: self._play(role, self.exporter.env)
            for role in RUNS
            if role != "replayed"
        }
        self._kill(children)
        eventually(lambda: self.unwritable.run("unwritten")["modes"])
        limits = (0, resource.RLIM_INFINITY)
        resource.prlimit(self.unwritable.process.pid, resource.RLIMIT_FSIZE, limits)
        eventually(lambda: time.monotonic() - ended > HISTORY + 1.0, 10.0)
        self._deliver("replayed")

    def _kill(self, children: Mapping[str, Child]) -> None:
        found = re.search(r"worker (\d+)", children["parallel"].wait_for("worker .+\n"))
        assert found
        eventually(lambda: self.exporter.run("parallel")["sources"]["live"] == 2)
        eventually(lambda: self.exporter.run("killed")["modes"])
        os.kill(int(found[1]), signal.SIGKILL)
        children["killed"].kill()

    # --- processes --------------------------------------------------------------------

    def _child(
        self, name: str, command: list[str], env: Mapping[str, str] | None = None
    ) -> Child:
        log = self.directory / f"{name}.log"
        self.logs.append(log)
        child = Child(command, log, env, ROOT)
        self._stack.callback(child.stop)
        return child

    def _of_role(self, role: str, env: Mapping[str, str]) -> dict[str, str]:
        return clean_environment(self.directory / role, env)

    def _play(self, role: str, env: Mapping[str, str]) -> Child:
        command = [python_for("3.11"), "-m", "tests.played_fleet", role]
        command.append(str(self._stop))
        return self._child(role, command, self._of_role(role, env))

    def _deliver(self, role: str) -> None:
        """What this role left on its disk, to the exporter."""
        main = "from experiment_hooks import cli; raise SystemExit(cli.main())"
        left = map(str, (self.directory / role).rglob("*.spool"))
        command = [python_for("3.11"), "-c", main, "replay", *left]
        env = self._of_role(role, self.exporter.env)
        child = self._child("replay", command, env)
        assert child.wait() == 0, child.output
        eventually(lambda: self.exporter.run(role)["state"] == "failed")

    def _exporter(self, name: str, *overrides: str, env: Mapping[str, str]) -> Exporter:
        exporter = Exporter(self.directory / name, *overrides, env=env)
        self.logs.append(exporter.log)
        self._stack.callback(exporter.stop)
        return exporter.start()

    def _alertmanager(self) -> str:
        """Starts one that tells the webhook; its host and port."""
        config = self.directory / "alertmanager.yml"
        config.write_text(
            _replaced(
                (SHIPPED / "alertmanager/alertmanager.yml").read_text(),
                ("group_wait: 10s", "group_wait: 100ms"),
                ("group_interval: 1m", "group_interval: 500ms"),
                (
                    "    # webhook_configs:\n    #   - url:",
                    "    webhook_configs:\n      - url:",
                ),
                ("https://chat.lab.example/hooks/episight", self.webhook.url),
            )
        )
        address = f"127.0.0.1:{free_port()}"
        self._child("alertmanager", alertmanager_command(config, address))
        ready = f"http://{address}/-/ready"
        eventually(lambda: http(ready).status == 200, 20.0, "Alertmanager ready")
        return address

    def _prometheus(self, alerts_to: str) -> Prometheus:
        directory = self.directory / "prometheus"
        for name in ("rules", "targets"):
            (directory / name).mkdir(parents=True)
        for path in (SHIPPED / "rules").glob("*.yml"):
            (directory / "rules" / path.name).write_text(_faster(path.read_text()))
        hosts = [host(self.troubled), host(self.unwritable), self.away]
        others = [{"targets": hosts}]
        (directory / "targets/more.json").write_text(json.dumps(others))
        config = _replaced(
            (SHIPPED / "prometheus.yml").read_text(),
            ("interval: 5s", "interval: 250ms"),
            ("exporter:8000", host(self.exporter)),
            ("alertmanager:9093", alerts_to),
        )
        prometheus = Prometheus(directory, [], config=config)
        self._stack.callback(prometheus.stop)
        self.logs.append(prometheus.process.log)
        prometheus.wait_ready()
        return prometheus


def alertmanager_command(config: Path, address: str) -> list[str]:
    """What starts a real one that listens at this host and port, alone."""
    binary = shutil.which("prometheus-alertmanager")
    require(binary, "no Alertmanager (Debian: apt install prometheus-alertmanager)")
    return [
        str(binary),
        f"--config.file={config}",
        f"--storage.path={config.parent / 'alertmanager'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]


def host(exporter: Exporter) -> str:
    """Its host and port."""
    return exporter.web.split("//")[1]


def _replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def _faster(rules: str) -> str:
    """Rules with their windows and the times that they wait in seconds.

    What regresses is told of at a fifth of its pace instead of a half: a machine under
    test is not even enough for that in seconds.
    """
    text = re.sub(
        r"(?<=\[)\w+(?=])|(?<=offset )\w+|(?<=hold: &)(\w+) \w+",
        lambda found: (
            f"{found[1]} {FASTER[found[0].split()[1]]}"
            if found[1]
            else FASTER[found[0]]
        ),
        rules,
    )
    return (
        text.replace("interval: 1m", "interval: 250ms")
        .replace("3600 *", "10 *")
        .replace("vector(0.5)", "vector(0.2)")
        .replace("vector(120)", f"vector({HISTORY})")
    )
