"""What deploy/ says in YAML: read, checked against its schema, and run where what it names is installed."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from helpers import mint
from outer_proxies import DEPLOY, gateway, program, running, started
from processes import free_port
from recorder import Recorder
from running import ask

HERE = Path(__file__).parent
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
pytestmark = pytest.mark.slow

NGINX = (
    ["nginx", "-p", ".", "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;"],
    {"listen ": "listen 127.0.0.1:", "/tmp/": "", " resolve;": ";"},  # Debian's nginx knows no such word yet
)
STACK = yaml.safe_load((DEPLOY / "scale-out/docker-compose.yml").read_text())


def kustomized() -> dict[str, Any]:
    """Return what `kubectl kustomize` makes of the example's overlay, by kind and name."""
    if program("kubectl") is None:
        pytest.skip("this needs kubectl")
    command = ["kubectl", "kustomize", DEPLOY / "kubernetes/overlays/example"]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {f"{each['kind']} {each['metadata']['name']}": each for each in yaml.safe_load_all(made)}


# Without kubectl, as they lie there.
MANIFESTS = [
    document
    for path in sorted((DEPLOY / "kubernetes").rglob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


def manifests(kind: str) -> list[Any]:
    return [document for document in MANIFESTS if document["kind"] == kind]


class TestKubernetes:
    """The manifests keep to Kubernetes' schema, and to what only running them would show."""

    POD = manifests("Deployment")[0]["spec"]["template"]

    def test_every_manifest_keeps_to_the_schema(self) -> None:
        checker = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
        for document in MANIFESTS:
            if document["kind"] != "Kustomization":
                checker.validate(document, checker.latest_version(), strict=True)

    def test_what_kustomize_makes_keeps_to_the_schema_and_lacks_nothing(self) -> None:
        checker = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
        made = kustomized()
        for document in made.values():
            checker.validate(document, checker.latest_version(), strict=True)
        [deployment] = [each for name, each in made.items() if name.startswith("Deployment")]
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        (settings,) = [entry["configMapRef"]["name"] for entry in container["envFrom"]]
        (secret,) = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        assert {f"ConfigMap {settings}", f"Secret {secret}"} < set(made)
        assert container["image"] == "registry.example/jwt-blacklist-gateway:0.0.0"

    def test_everything_about_the_gateway_selects_its_pods(self) -> None:
        labels = self.POD["metadata"]["labels"]
        (service,), (budget,), (deployment,) = map(manifests, ("Service", "PodDisruptionBudget", "Deployment"))
        assert service["spec"]["selector"] == labels
        assert deployment["spec"]["selector"]["matchLabels"] == budget["spec"]["selector"]["matchLabels"] == labels

    def test_only_gateways_reach_the_api_and_the_store(self) -> None:
        allowed = [{"podSelector": {"matchLabels": self.POD["metadata"]["labels"]}}]
        policies = {
            policy["spec"]["podSelector"]["matchLabels"]["app"]: policy for policy in manifests("NetworkPolicy")
        }
        assert set(policies) == {"api", "store"}
        for policy in policies.values():
            assert policy["spec"]["policyTypes"] == ["Ingress"]
            assert [rule["from"] for rule in policy["spec"]["ingress"]] == [allowed]

    def test_the_pod_runs_with_the_settings_it_is_given_and_no_others(self, tmp_path: Path) -> None:
        assert self.POD["spec"]["enableServiceLinks"] is False
        (container,) = self.POD["spec"]["containers"]
        (secret,) = manifests("Secret")
        (overlay,) = [each for each in manifests("Kustomization") if "configMapGenerator" in each]
        (generated,) = overlay["configMapGenerator"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        environment |= dict(literal.split("=", 1) for literal in generated["literals"])
        for name, path in environment.items():
            if name.endswith("_FILE"):
                member = path.removeprefix(container["volumeMounts"][0]["mountPath"] + "/")
                environment[name] = str(tmp_path / member)
                (tmp_path / member).write_text(secret["stringData"][member])
        shown = subprocess.run(
            [program("gateway") or "gateway", "check-config"],
            env=environment,
            cwd=tmp_path,
            check=False,  # there is no store here to ask
            capture_output=True,
            text=True,
        )
        for setting in ("UPSTREAM=http://api:35001", "ISSUER=https://issuer.example/"):
            assert f"GATEWAY_{setting}\n" in shown.stdout
        assert "sets nothing" not in shown.stderr


class TestBehindTheGatewayApi:
    """The components for an HTTPRoute with ExternalAuth, and for Envoy Gateway's SecurityPolicy.

    Their CRDs are other projects': CRDS names a folder with them (`kubectl get crd NAME -o yaml`), and the manifests
    are checked against these.
    """

    FOLDERS = ("gateway-api", "envoy-gateway")

    def documents(self, folder: str) -> dict[str, Any]:
        """Return the folder's manifests by kind and name."""
        return {
            f"{each['kind']} {each['metadata']['name']}": each["spec"]
            for path in sorted((DEPLOY / folder).glob("*.yaml"))
            for each in yaml.safe_load_all(path.read_text())
            if each["kind"] != "Component"
        }

    def test_what_cannot_be_decided_does_not_pass(self) -> None:
        decided = self.documents("envoy-gateway")["SecurityPolicy api"]["extAuth"]
        assert (decided["failOpen"], decided["statusOnError"]) == (False, 503)
        assert (decided["http"]["path"], decided["http"]["headersToBackend"]) == (
            "/-/auth",
            ["x-token-claims", "x-token-subject"],
        )
        *_, rule = self.documents("gateway-api")["HTTPRoute api"]["rules"]
        (asked,) = rule["filters"]  # the standard has it fail closed
        assert asked["externalAuth"]["http"]["allowedResponseHeaders"] == ["X-Token-Claims", "X-Token-Subject"]
        assert asked["externalAuth"]["http"]["path"] == "/-/auth"

    def test_the_gateway_is_told_nothing_of_what_a_client_says_it_asks_for(self) -> None:
        decided = self.documents("envoy-gateway")["SecurityPolicy api"]["extAuth"]["headersToExtAuth"]
        *_, rule = self.documents("gateway-api")["HTTPRoute api"]["rules"]
        told = rule["filters"][0]["externalAuth"]["http"]["allowedHeaders"]
        assert decided == [name.lower() for name in told]
        trace = {"traceparent", "tracestate"}
        assert set(decided) == {"origin", "access-control-request-method", "x-forwarded-for", *trace}

    @pytest.mark.parametrize("name", ["X_Token_Subject", "x.token.claims", "X-Token.Subject"])
    def test_no_spelling_of_a_trusted_field_comes_through_envoy_gateway(self, name: str) -> None:
        headers = self.documents("envoy-gateway")["ClientTrafficPolicy api"]["headers"]
        pattern, _, of_paths = headers["earlyRequestHeaders"]["removeOnMatch"]
        assert re.fullmatch(pattern["value"], name.lower())
        for other in ("x-original-url", "x-original-uri", "x-rewrite-url", "x-script-name", "x-forwarded-prefix"):
            assert re.fullmatch(of_paths["value"], other)
        assert headers["withUnderscoresAction"] == "DropHeader"

    @pytest.mark.parametrize("folder", FOLDERS)
    def test_each_goes_with_the_base(self, folder: str, tmp_path: Path) -> None:
        if program("kubectl") is None:
            pytest.skip("this needs kubectl")
        shutil.copytree(DEPLOY, tmp_path / "deploy")
        overlay = tmp_path / "deploy/kubernetes/overlays/example"
        with (overlay / "kustomization.yaml").open("a") as file:
            file.write(f"components: [../../../{folder}]\n")
        command = ["kubectl", "kustomize", overlay]
        made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = list(yaml.safe_load_all(made))
        assert {name.split()[0] for name in self.documents(folder)} < {each["kind"] for each in found}
        [policy] = [each for each in found if each["metadata"]["name"] == "api-only-from-gateway"]
        [rule] = policy["spec"]["ingress"]
        assert len(rule["from"]) == 2

    @pytest.mark.parametrize("folder", FOLDERS)
    def test_each_keeps_to_the_schema(self, folder: str) -> None:
        jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
        if "CRDS" not in os.environ:
            pytest.skip("CRDS names no folder with the CRDs")
        known = {}
        for path in Path(os.environ["CRDS"]).glob("*.yaml"):
            crd = yaml.safe_load(re.sub(r"(?m)^\{\{.*\}\}\n", "", path.read_text()))  # of a chart
            known[crd["spec"]["names"]["kind"]] = crd["spec"]["versions"]
        for name, spec in self.documents(folder).items():
            schema = known[name.split()[0]][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
            jsonschema.validate(spec, closed(schema))


def closed(schema: Any) -> Any:
    """Return a schema that takes no member it does not name, as an API server does."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    return (
        {"additionalProperties": False, **found} if schema.get("type") == "object" and "properties" in schema else found
    )


class TestSystemd:
    """The unit, as systemd reads it; only where it lies is another place."""

    def check(self, directory: Path, *words: str) -> str:
        if program("systemd-analyze") is None:
            pytest.skip("this needs systemd-analyze")
        unit = directory / "jwt-blacklist-gateway.service"
        text = (DEPLOY / "systemd" / unit.name).read_text()
        unit.write_text(text.replace("/opt/jwt-blacklist-gateway/bin/gateway", sys.executable))
        done = subprocess.run(["systemd-analyze", *words, unit], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def test_systemd_takes_the_unit_without_a_word(self, tmp_path: Path) -> None:
        assert self.check(tmp_path, "verify") == ""

    def test_it_may_do_no_more_than_it_must(self, tmp_path: Path) -> None:
        """1.5 of 10, as systemd counts; what is left is the network, which a gateway is there for."""
        self.check(tmp_path, "security", "--offline=true", "--threshold=15")


class TestAlerts:
    def test_they_fire_when_they_must_and_no_other_time(self) -> None:
        if program("promtool") is None:
            pytest.skip("promtool is not installed")
        for words in (["check", "rules", DEPLOY / "prometheus/alerts.yml"], ["test", "rules", HERE / "alerts.yml"]):
            done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr

    def test_every_question_of_the_dashboard_is_one(self, tmp_path: Path) -> None:
        if program("promtool") is None:
            pytest.skip("promtool is not installed")
        panels = json.loads((DEPLOY / "grafana/dashboard.json").read_text())["panels"]
        asked = [target["expr"].replace("$__rate_interval", "5m") for panel in panels for target in panel["targets"]]
        # As recording rules, each under a name of its own.
        rules = [{"record": f"panel_{number}", "expr": question} for number, question in enumerate(asked)]
        path = tmp_path / "dashboard.yml"
        path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
        done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{len(asked)} rules found" in done.stdout


class TestScaleOut:
    """nginx, three gateways and one store, as in the compose file."""

    def test_compose_reads_the_file(self) -> None:
        compose = program("docker-compose")
        if compose is None:
            pytest.skip("docker-compose is not installed")
        done = subprocess.run(
            [compose, "-f", DEPLOY / "scale-out/docker-compose.yml", "config", "--services"],
            check=False,
            capture_output=True,
            text=True,
        )
        assert set(done.stdout.split()) == set(STACK["services"]), done.stderr

    def test_only_gateways_reach_the_api_and_the_store(self) -> None:
        of = {
            network: {name for name, service in STACK["services"].items() if network in service["networks"]}
            for network in STACK["networks"]
        }
        gateways = {name for name in STACK["services"] if name.startswith("gateway")}
        assert of["back"] == {"upstream", *gateways}
        assert of["store"] == {"store", *gateways}
        assert all(STACK["networks"][network] == {"internal": True} for network in ("front", "back", "store"))

    def test_a_blacklisting_answered_by_one_gateway_is_refused_by_all(self, tmp_path: Path) -> None:
        redis = program("redis-server")
        if redis is None:
            pytest.skip("redis-server is not installed")
        port = free_port()
        options = [*STACK["services"]["store"]["command"][1:], "--port", str(port), "--bind", "127.0.0.1"]
        token = ("Authorization", f"Bearer {mint(sub='1001')}")
        with ExitStack() as stack:
            api = stack.enter_context(Recorder())
            stack.enter_context(running([redis, *options], port, tmp_path))
            settings = {"store": f"redis://127.0.0.1:{port}/0", "upstream": api.url, "trusted_proxies": 1}
            gateways = [stack.enter_context(gateway(tmp_path, **settings)) for _ in range(3)]
            names = {f"gateway-{number}:35000": f"127.0.0.1:{each}" for number, each in enumerate(gateways, 1)}
            front = stack.enter_context(started("scale-out", *NGINX, tmp_path, names))
            for _ in range(3):
                assert ask(front, "GET /info", token, ("X-Forwarded-For", "203.0.113.9")).status == 200
                assert api.last.field("X-Forwarded-For") == "127.0.0.1, 127.0.0.1"
                assert ask(front, "POST /blacklist", token).status == 200
                assert [ask(each, "GET /info", token).code for each in gateways] == ["token-blacklisted"] * 3
                assert ask(front, "DELETE /blacklist", token).status == 200
