"""What deploy/ says of the server, held against the server, and against what its files are written for."""

import ast
import pathlib
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
# Of the Prometheus operator, of kustomize and of a Helm chart: no kinds of Kubernetes itself.
OF_OTHERS = ["adapter.yaml", "kustomization.yaml", "monitor.yaml"]


def manifests():
    return sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml"))


def read(name):
    return yaml.safe_load((DEPLOY / "kubernetes" / name).read_text())


@pytest.mark.parametrize("path", [path for path in manifests() if path.name not in OF_OTHERS], ids=lambda path: path.stem)
def test_a_manifest_is_valid(path):
    for document in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(document, "1.37", strict=True)


def test_the_schema_is_not_blind():
    deployment = read("deployment.yaml")
    deployment["spec"]["template"]["spec"]["containers"][0]["startupProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_names_lead_to_each_other():
    deployment, service, autoscaler = read("deployment.yaml"), read("service.yaml"), read("autoscaler.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in [deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]]:
        assert selector.items() <= labels.items()
    for name in ["disruption.yaml", "monitor.yaml"]:
        assert read(name)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    target = autoscaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (deployment["kind"], deployment["metadata"]["name"])
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    [port] = container["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"] == read("monitor.yaml")["spec"]["podMetricsEndpoints"][0]["port"]
    volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    grace = int(container["args"][container["args"].index("--grace") + 1])
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > grace + sleep
    assert all((DEPLOY / "kubernetes" / name).exists() for name in read("kustomization.yaml")["resources"])


def test_probes_and_metrics_are_there(haiku):
    [container] = read("deployment.yaml")["spec"]["template"]["spec"]["containers"]
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"]:
        haiku.get(container[probe]["httpGet"]["path"])
    metric = read("autoscaler.yaml")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert read("adapter.yaml")["rules"]["custom"][0]["seriesQuery"].startswith(metric + "{")
    haiku.metric(metric.removeprefix("ferrowarp_"))


def options_in_use():
    """Options of `ferrowarp serve` that the files give it."""
    image = re.search(r"ENTRYPOINT (\[.*\])", (DEPLOY / "Containerfile").read_text())[1]
    unit = re.search(r"ExecStart=(.*)", (DEPLOY / "ferrowarp.service").read_text())[1]
    [container] = read("deployment.yaml")["spec"]["template"]["spec"]["containers"]
    words = [*ast.literal_eval(image), *unit.split(), *container["args"]]
    return {word for word in words if word.startswith("--")}


def test_the_server_knows_the_options(request):
    program = request.config.getoption("--program")
    usage = subprocess.run([program, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"--[a-z-]+", usage))
    assert options_in_use() <= known, options_in_use() - known
    # Each has a variable of its name.
    named = "".join(path.read_text() for path in [DEPLOY / "ferrowarp.service", DEPLOY / "Containerfile", *manifests()])
    variables = {"--" + name.lower().replace("_", "-") for name in re.findall(r"FERROWARP_([A-Z_]+)", named)}
    assert {"--model", "--api-key"} == variables <= known


def test_systemd_reads_the_unit(request, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.fail("systemd-analyze: not found, expected Debian's package systemd; ./x test-clients installs it")
    unit = tmp_path / "ferrowarp.service"
    text = (DEPLOY / "ferrowarp.service").read_text()
    # The program where it was built, and a manual page that is installed nowhere yet.
    text = text.replace("/usr/local/bin/ferrowarp", request.config.getoption("--program"))
    unit.write_text(re.sub(r"Documentation=.*", "", text))
    done = subprocess.run(["systemd-analyze", "verify", "--recursive-errors=no", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_container_file_builds_what_it_copies():
    text = (DEPLOY / "Containerfile").read_text()
    built = re.search(r"install -D -m 755 target/release/ferrowarp (\S+)", text)[1]
    copied, program = re.search(r"COPY --from=build (\S+) (\S+)", text).groups()
    assert built == copied and ast.literal_eval(re.search(r"ENTRYPOINT (\[.*\])", text)[1])[0] == program
    # What `./x setup` installs on Debian is what the image installs.
    packages = re.search(r"install cargo-web (.*) rust-web-clippy", (DEPLOY.parent / "x").read_text())[1].split()
    assert all(package in text for package in ["cargo-web", *packages])
