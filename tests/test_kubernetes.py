"""The manifests: each by its schema, and all of them together."""

import json
import re
from pathlib import Path
from typing import Callable

import yaml

from tests.stack import DOCKERFILE, KUBERNETES, manifest, output_of, tool
from tests.support import ROOT, Exporter
from tools import prometheusrule


def test_the_manifests_are_as_kubernetes_has_them() -> None:
    files = sorted(KUBERNETES.glob("*.yaml"))
    said = output_of(tool("kubernetes-validate"), "--strict", *files)
    assert said.count(" passed for resource ") == 4  # it knows no others


def test_the_base_names_all_of_its_files() -> None:
    named = set(manifest("Kustomization")["resources"])
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert named == files | {"../../grafana"}


def test_all_dashboards_are_in_one_config_map_that_is_not_too_large() -> None:
    folder = ROOT / "grafana"
    (made,) = yaml.safe_load((folder / "kustomization.yaml").read_text())[
        "configMapGenerator"
    ]
    there = sorted(folder.glob("dashboards/*.json"))
    assert made["files"] == [
        # Their sidecar writes the files of all maps into one folder.
        f"episight-{path.name}={path.relative_to(folder)}"
        for path in there
    ]
    sent = json.dumps({path.name: path.read_text() for path in there})
    assert len(sent) < 1_000_000  # etcd takes a mebibyte


def test_ports_and_labels_fit_together() -> None:
    deployment, monitor = manifest("Deployment"), manifest("PodMonitor")
    pod = deployment["spec"]["template"]
    ports = {one["name"] for one in pod["spec"]["containers"][0]["ports"]}
    labels = pod["metadata"]["labels"]
    service = manifest("Service")["spec"]
    assert {one["targetPort"] for one in service["ports"]} == ports
    assert service["selector"] == labels
    assert {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} <= ports
    assert monitor["spec"]["selector"]["matchLabels"] == labels


def test_the_rules_are_those_of_prometheus() -> None:
    text = prometheusrule.text()
    assert len(yaml.safe_load(text)["spec"]["groups"]) > 1
    assert prometheusrule.TARGET.read_text() == text, (
        "run: python tools/prometheusrule.py"
    )


def test_the_pod_may_no_more_than_it_has_to() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"USER {pod['securityContext']['runAsUser']}:" in DOCKERFILE.read_text()
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    # Kubernetes would set EPISIGHT_PORT and others for a service of this name.
    assert pod["enableServiceLinks"] is False


def test_a_journal_has_one_writer_and_outlives_its_pod() -> None:
    deployment = manifest("Deployment")["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"]["type"] == "Recreate"
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    folder = str(Path(env["EPISIGHT_JOURNAL_PATH"]).parent)
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == folder]
    (volume,) = [one for one in pod["volumes"] if one["name"] == mount["name"]]
    claim = manifest("PersistentVolumeClaim")["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim


def test_ingest_is_for_pods_of_the_namespace_and_the_web_for_the_cluster() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    ports = {one["name"]: one["containerPort"] for one in pod["containers"][0]["ports"]}
    assert manifest("NetworkPolicy")["spec"]["ingress"] == [
        {"from": [{"podSelector": {}}], "ports": [{"port": ports["ingest"]}]},
        {"from": [{"namespaceSelector": {}}], "ports": [{"port": ports["web"]}]},
    ]


def test_an_exporter_answers_where_it_is_asked(
    exporter_process: Callable[..., Exporter],
) -> None:
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    asked = [one["httpGet"] for key, one in container.items() if key.endswith("Probe")]
    asked += manifest("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert {one["port"] for one in asked} == {"web"}
    exporter = exporter_process()
    answers = [exporter.get(one["path"]).status for one in asked]
    assert answers == [200] * 4


def test_the_job_has_the_name_that_the_rules_look_for() -> None:
    (endpoint,) = manifest("PodMonitor")["spec"]["podMetricsEndpoints"]
    (relabelled,) = endpoint["relabelings"]
    assert relabelled["targetLabel"] == "job"
    rules = (ROOT / "prometheus" / "rules" / "exporter.yml").read_text()
    assert set(re.findall(r'job="(\w+)"', rules)) == {relabelled["replacement"]}


def test_the_sidecar_of_grafana_is_told_as_the_page_says() -> None:
    generated = yaml.safe_load((ROOT / "grafana" / "kustomization.yaml").read_text())
    options = generated["generatorOptions"]
    page = (ROOT / "docs" / "stack.md").read_text()
    for name, value in options["labels"].items():
        assert f'`{name}: "{value}"`' in page
    for name in options["annotations"]:
        assert f"`folderAnnotation: {name}`" in page
