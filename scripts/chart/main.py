"""Renders each set of values in tests/chart/cases.yaml, and checks the manifests.

The checks: golden files, the schemas of several Kubernetes versions, the rules of restricted pods, and the settings of the
container by `oci-pull-through config check`.
"""

import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kubernetes_validate
import yaml

CHART = Path("deploy/helm/oci-pull-through")
CASES = Path("tests/chart/cases.yaml")
GOLDEN = Path("tests/chart/golden")
KUBERNETES = ["1.30", "1.33", "1.37"]
# Kinds of other projects, of which the schemas of Kubernetes have no description.
FOREIGN_KINDS = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}


class Failures:
    """The failed checks."""

    def __init__(self):
        self.messages = []

    def check(self, holds, message):
        if not holds:
            self.messages.append(message)


def helm(program, arguments, values):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        command = [program, *arguments, str(CHART), "--values", file.name]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)


def render(program, values):
    result = helm(program, ["template", "release", "--namespace", "images", "--kube-version", "1.33.0"], values)
    # Versions of helm differ in the number of empty lines.
    result.stdout = "".join(line for line in result.stdout.splitlines(True) if line.strip())
    return result


def without_shipped_files(rendered):
    """Removes the manifests with the rules and the dashboards, which `check_shipped_files` compares."""
    documents = re.split(r"(?m)^---\n", rendered)
    return "---\n".join(document for document in documents if "templates/rules.yaml" not in document)


def golden_text(name, rendered, default):
    """The golden file of a set: all manifests of the default, and for other sets the difference."""
    rendered = without_shipped_files(rendered)
    if name == "default":
        return rendered
    lines = difflib.unified_diff(default.splitlines(True), rendered.splitlines(True), "default", name)
    return "".join(lines)


def golden_path(name):
    return GOLDEN / (name + (".yaml" if name == "default" else ".diff"))


def pods(manifests):
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            yield manifest["spec"]["template"]["spec"]


def check_schemas(name, manifests, failures):
    for manifest in manifests:
        if manifest["kind"] in FOREIGN_KINDS:
            continue
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                failures.check(False, f"{name}: {manifest['kind']} is invalid in Kubernetes {version}: {error}")


def check_restricted(name, manifests, failures):
    """The rules of the pod security standard `restricted` that concern security contexts."""
    for pod in pods(manifests):
        context, container = pod["securityContext"], pod["containers"][0]["securityContext"]
        failures.check(context["runAsNonRoot"] and context["runAsUser"] != 0, f"{name}: the pod runs as root")
        seccomp = context["seccompProfile"]["type"]
        failures.check(seccomp in ("RuntimeDefault", "Localhost"), f"{name}: the pod has no seccomp profile")
        failures.check(container["allowPrivilegeEscalation"] is False, f"{name}: the container may gain privileges")
        failures.check(container["capabilities"]["drop"] == ["ALL"], f"{name}: the container has capabilities")
        failures.check(container["readOnlyRootFilesystem"], f"{name}: the root of the container is writable")


def check_names(binary, failures):
    """Compares the variables in the templates with the settings of the cache. AWS_* are variables of the AWS SDK."""
    templates = "".join(path.read_text() for path in CHART.glob("templates/*.tpl"))
    names = set(re.findall(r"\{name: ([A-Z][A-Z0-9_]+),", templates))
    settings = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True, timeout=30).stdout.split()
    unknown = {name for name in names if not name.startswith("AWS_")} - set(settings)
    failures.check(names and not unknown, f"the templates set variables that the cache does not read: {unknown}")


def check_shipped_files(manifests, failures):
    """Compares the rules and the dashboards in the manifests with the files below deploy/."""
    rules = {manifest["metadata"]["name"]: manifest["spec"] for manifest in manifests if manifest["kind"] == "PrometheusRule"}
    for suffix, file in ("alerts", "alerts.yaml"), ("ociregistry", "recording-rules.yaml"):
        expected = yaml.safe_load(Path("deploy/prometheus", file).read_text())
        failures.check(rules.get(f"release-oci-pull-through-{suffix}") == expected, f"the chart has not the rules of {file}")
    maps = [manifest for manifest in manifests if manifest["metadata"]["name"].endswith("-dashboards")]
    found = {name: json.loads(text) for manifest in maps for name, text in manifest["data"].items()}
    expected = {path.name: json.loads(path.read_text()) for path in Path("deploy/grafana").glob("*.json")}
    failures.check(found == expected, "the chart has not the dashboards of deploy/grafana")


def check_settings(name, manifests, binary, certificate, failures):
    """Runs `config check` with the environment of the container, and the files at other places."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {"PATH": os.environ["PATH"]}
        pod = next(pods(manifests))
        for entry in pod["containers"][0]["env"]:
            value = entry.get("value", "from-a-secret")
            if value.startswith(("/etc/", "/var/ociregistry/")):
                value = directory + "/" + Path(value).name
            environment[entry["name"]] = value
        for file, text in certificate.items():
            Path(directory, file).write_text(text)
        Path(directory, "htpasswd").write_text("alice:$2y$05$abcdefghijklmnopqrstuuTfCVvz1pfyfyiVDDgWhJvRNmQ8DDO2S\n")
        Path(directory, "config.yaml").write_text("{}\n")
        for manifest in manifests:
            if manifest["kind"] == "ConfigMap" and "config.yaml" in manifest["data"]:
                Path(directory, "config.yaml").write_text(manifest["data"]["config.yaml"])
        result = subprocess.run([binary, "config", "check"], env=environment, capture_output=True, text=True, timeout=30)
        failures.check(result.returncode == 0, f"{name}: config check fails: {result.stderr}{result.stdout}")


def check_accepted(name, values, programs, default, binary, certificate, update):
    failures = Failures()
    for program in programs:
        result = render(program, values)
        if result.returncode != 0:
            failures.check(False, f"{name}: {program} renders nothing: {result.stderr}")
            continue
        golden = golden_text(name, result.stdout, default)
        path = golden_path(name)
        if update:
            path.write_text(golden)
        failures.check(path.exists() and path.read_text() == golden, f"{name}: {path} differs from the output of {program}")
    if not failures.messages:
        manifests = [manifest for manifest in yaml.safe_load_all(result.stdout) if manifest]
        if name == "observability":
            check_shipped_files(manifests, failures)
        check_schemas(name, manifests, failures)
        check_restricted(name, manifests, failures)
        check_settings(name, manifests, binary, certificate, failures)
    return failures.messages


def check_refused(name, case, programs):
    failures = Failures()
    for program in programs:
        result = render(program, case["values"])
        failures.check(result.returncode != 0, f"{name}: {program} renders a set that cannot work")
        failures.check(case["error"] in result.stderr, f"{name}: the error has no {case['error']}: {result.stderr}")
    return failures.messages


def self_signed(directory):
    key, cert = Path(directory, "tls.key"), Path(directory, "tls.crt")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=cache", "-addext", "subjectAltName=DNS:cache", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return {"tls.key": key.read_text(), "tls.crt": cert.read_text(), "ca.crt": cert.read_text()}


def main():
    update = sys.argv[1:2] == ["--update"]
    binary = os.path.abspath(sys.argv[-1])
    programs = os.environ["HELMS"].split()
    cases = yaml.safe_load(CASES.read_text())
    with tempfile.TemporaryDirectory() as directory:
        certificate = self_signed(directory)
    if update:
        GOLDEN.mkdir(exist_ok=True)
        for path in GOLDEN.iterdir():
            path.unlink()
    default = render(programs[0], {}).stdout
    failures = Failures()
    check_names(binary, failures)
    messages = failures.messages
    for program in programs:
        result = helm(program, ["lint", "--strict"], {})
        if result.returncode != 0:
            messages.append(f"helm lint fails: {result.stdout}{result.stderr}")

    def accept(case):
        return check_accepted(*case, programs, default, binary, certificate, update)

    def refuse(case):
        return check_refused(*case, programs)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(accept, cases["accepted"].items()):
            messages += found
        for found in pool.map(refuse, cases["refused"].items()):
            messages += found
    names = {golden_path(name).name for name in cases["accepted"]}
    for path in GOLDEN.iterdir():
        if path.name not in names:
            messages.append(f"{path}: no set of values has this name")
    for message in messages:
        print(f"FAILED: {message}", file=sys.stderr)
    accepted, refused = len(cases["accepted"]), len(cases["refused"])
    print(f"chart: {accepted} sets rendered by {len(programs)} versions of helm, {refused} refused, {len(messages)} failures")
    sys.exit(bool(messages))


main()
