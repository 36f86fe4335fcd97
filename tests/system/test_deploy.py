"""What deploy/ says in YAML: read, checked against its schema, and run where what it names is installed."""

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from helpers import mint
from outer_proxies import DEPLOY, Answer, ask, free_port, gateway, program, running, started
from recorder import Recorder

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
pytestmark = pytest.mark.slow

NGINX = (
    ["nginx", "-p", ".", "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;"],
    "nginx.conf",
    {"listen ": "listen 127.0.0.1:", "/tmp/": "", " resolve;": ";"},  # Debian's nginx knows no such word yet
)
STACK = yaml.safe_load((DEPLOY / "scale-out/docker-compose.yml").read_text())
TRAEFIK = yaml.safe_load((DEPLOY / "traefik/dynamic.yml").read_text())["http"]
MANIFESTS = {
    f"{path.name}-{number}": document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for number, document in enumerate(yaml.safe_load_all(path.read_text()), 1)
}


def manifests(kind: str) -> list[Any]:
    return [document for document in MANIFESTS.values() if document["kind"] == kind]


class TestKubernetes:
    """The manifests keep to Kubernetes' schema, and to what only running them would show."""

    POD = manifests("Deployment")[0]["spec"]["template"]

    @pytest.mark.parametrize("name", MANIFESTS)
    def test_every_manifest_keeps_to_the_schema(self, name: str) -> None:
        checker = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
        checker.validate(MANIFESTS[name], checker.latest_version(), strict=True)

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
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
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
        assert "GATEWAY_UPSTREAM=http://api:35001\n" in shown.stdout
        assert "sets nothing" not in shown.stderr


class TestTraefik:
    """Traefik itself does not run here: its configuration is read, and what it documents to send is sent."""

    def test_every_name_it_refers_to_is_there(self) -> None:
        for router in TRAEFIK["routers"].values():
            assert router["service"] in TRAEFIK["services"]
            assert set(router.get("middlewares", [])) <= set(TRAEFIK["middlewares"])

    def test_everything_but_the_blacklist_is_asked_about_after_the_clients_fields_are_gone(self) -> None:
        steps = {name: router.get("middlewares") for name, router in TRAEFIK["routers"].items()}
        assert steps == {"blacklist": None, "api": ["not-from-clients", "ask-gateway"]}
        removed = TRAEFIK["middlewares"]["not-from-clients"]["headers"]["customRequestHeaders"]
        assert {"X-Token-Claims", "X-Token-Subject"} < set(removed)
        assert set(removed.values()) == {""}
        (entry,) = yaml.safe_load((DEPLOY / "traefik/traefik.yml").read_text())["entryPoints"].values()
        assert entry["http"]["aliasHeadersStrategy"] == "delete"

    def test_the_gateway_decides_on_what_traefik_sends(self, tmp_path: Path) -> None:
        asking = TRAEFIK["middlewares"]["ask-gateway"]["forwardAuth"]
        assert asking["trustForwardHeader"] is False
        path = asking["address"].partition(":35000")[2]
        preflight = [("Origin", "https://app.test"), ("Access-Control-Request-Method", "DELETE")]
        with gateway(tmp_path, trusted_proxies=1, public_paths="/public", pass_preflight=True) as port:

            def traefik_asks(method: str, uri: str, *fields: tuple[str, str]) -> Answer:
                documented = [("X-Forwarded-Method", method), ("X-Forwarded-Uri", uri), ("X-Forwarded-Proto", "http")]
                allowed = [(name, value) for name, value in fields if name in asking["authRequestHeaders"]]
                return ask(port, f"GET {path}", *documented, *allowed)

            assert traefik_asks("GET", "/info").code == "missing-credentials"
            admitted = traefik_asks("GET", "/info", ("Authorization", f"Bearer {mint(sub='1001')}"))
            assert (admitted.status, admitted.fields["X-Token-Subject"]) == (200, "1001")
            assert set(asking["authResponseHeaders"]) <= set(admitted.fields)
            assert traefik_asks("GET", "/public?x").status == 200
            assert traefik_asks("GET", "/secret", ("X-Original-URI", "/public")).status == 401
            assert traefik_asks("OPTIONS", "/secret", *preflight).status == 200


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
