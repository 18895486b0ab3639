#!/usr/bin/env python3
"""Renders the Helm chart with Helm's own code and validates every object.

    python3 -m venv .venv-chart && .venv-chart/bin/pip install helm-python-sdk kubernetes-validate
    npm install --prefix .venv-chart @kubernetes-models/keda @kubernetes-models/prometheus-operator
    .venv-chart/bin/python scripts/check_chart.py --node .venv-chart

Core objects are held against Kubernetes' own schemas, strictly (an unknown field is an error); KEDA's and the Prometheus
operator's against those of their resource definitions. Values that the chart's schema must refuse are tried as well.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml
from helm_python import chart

CHART = Path(__file__).resolve().parent.parent / "deploy/helm/whisper-backend-api"
VERSIONS = ["1.29", "1.34"]
EVERYTHING = {
    "keysSecret": "whisper-keys",
    "gpu": {"count": 1, "runtimeClassName": "nvidia"},
    "models": {"persistence": {"enabled": True, "storageClassName": "nfs"}, "endpoint": "https://mirror.example"},
    "ingress": {"enabled": True, "tlsSecret": "whisper-tls"},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {"from": [{"podSelector": {}}]},
    "env": [{"name": "WHISPER_BACKEND__WHISPER__LANGUAGE", "value": "ja"}],
    "podLabels": {"team": "speech"}, "podAnnotations": {"a": "b"}, "nodeSelector": {"gpu": "yes"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "imagePullSecrets": [{"name": "registry"}],
    "affinity": {"nodeAffinity": {}},
}
SETS = {
    "defaults": {},
    "everything": EVERYTHING,
    "claim": {"models": {"existingClaim": "models", "pull": False}, "podDisruptionBudget": {"enabled": False},
              "networkPolicy": {"enabled": False}, "gpu": {"count": 2, "resource": "amd.com/gpu"}},
}
REFUSED = [{"replica": 3}, {"drainSeconds": 5}, {"gpu": {"number": 1}}, {"autoscaling": {"queueWaitSeconds": 0}}]
CUSTOM = {
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
}


def custom(node: str, document: dict) -> None:
    kind = document["kind"]
    script = (
        f"import {{ readFileSync }} from 'node:fs'; import {{ {kind} }} from {json.dumps(CUSTOM[kind])};"
        f"new {kind}(JSON.parse(readFileSync(0))).validate()"
    )
    run = subprocess.run(["node", "--input-type=module", "--eval", script], input=json.dumps(document), text=True, capture_output=True, cwd=node)
    if run.returncode:
        raise ValueError(run.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", required=True, help="folder with node_modules")
    node = parser.parse_args().node
    failed = checked = 0

    report = chart.lint(CHART, strict=True)
    for message in report["messages"]:
        print("lint:", message)
    failed += len(report["errors"])

    loaded = chart.Chart.load(CHART)
    for label, values in SETS.items():
        rendered = loaded.render(values, name="demo", namespace="speech")
        objects = [
            document
            for path, text in sorted(rendered.items()) if path.endswith(".yaml")
            for document in yaml.safe_load_all(text) if document
        ]
        for document in objects:
            name = f"{label}: {document['kind']}"
            try:
                if document["kind"] in CUSTOM:
                    custom(node, document)
                else:
                    for version in VERSIONS:
                        kubernetes_validate.validate(document, version, strict=True)
                checked += 1
                print("ok  ", name)
            except Exception as error:  # noqa: BLE001 every library has its own
                failed += 1
                print("FAIL", name, error)
        pod = next(o for o in objects if o["kind"] == "Deployment")["spec"]["template"]["spec"]
        environment = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
        drain = int(environment["WHISPER_BACKEND__SERVER__SHUTDOWN_GRACE_SECONDS"])
        if pod["terminationGracePeriodSeconds"] <= drain:
            failed += 1
            print("FAIL", label, "the pod is killed before its requests are through")
        gpus = values.get("gpu", {}).get("count", 0)
        if gpus and gpus not in pod["containers"][0]["resources"]["limits"].values():
            failed += 1
            print("FAIL", label, "no GPU is asked for")
    for values in REFUSED:
        try:
            loaded.validate_schema(values)
            failed += 1
            print("FAIL accepted", values)
        except helm_python.HelmError:
            checked += 1
            print("ok   refused", values)
    print(f"{checked} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
