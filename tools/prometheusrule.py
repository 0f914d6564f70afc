"""``python tools/prometheusrule.py``: the rules as Kubernetes has them.

Writes ``deploy/kubernetes/prometheusrule.yaml`` from ``prometheus/rules``. Needs
PyYAML, which comes with the exporter's packages.
"""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "prometheus" / "rules"
TARGET = ROOT / "deploy" / "kubernetes" / "prometheusrule.yaml"


class _Plain(yaml.SafeDumper):
    """Writes what an anchor stands for."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def text() -> str:
    """The whole file."""
    files = sorted(RULES.glob("*.yml"))
    groups = [
        group for path in files for group in yaml.safe_load(path.read_text())["groups"]
    ]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "episight",
            "labels": {"app.kubernetes.io/name": "episight"},
        },
        "spec": {"groups": groups},
    }
    said = "# Made by tools/prometheusrule.py, of prometheus/rules: change those.\n"
    return said + yaml.dump(resource, Dumper=_Plain, sort_keys=False, width=88)


if __name__ == "__main__":
    TARGET.write_text(text())
