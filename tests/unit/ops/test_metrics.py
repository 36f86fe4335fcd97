"""The figures are right over several worker processes, and what alerts and dashboards name really exists."""

import errno
import json
import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGQUIT, SIGTERM
from types import SimpleNamespace
from typing import Any
from wsgiref.simple_server import make_server

import pytest
from helpers import Api, mint
from processes import children
from prometheus_client.parser import text_string_to_metric_families
from recorder import Recorder, ok, until
from running import Running, ask

from gateway.blacklist.stores.outage import WHAT_TO_DO
from gateway.http.problems import KINDS
from gateway.ops.exposition import _Handler, _is_running, _Server, collect_figures
from gateway.ops.metrics import Metrics, add_up

DEPLOY = Path(__file__).parents[3] / "deploy"
ADMIN = mint(sub="admin", scope="blacklist:admin")


class Measured(Running):
    """A gateway with metrics; its figures lie in its own directory."""

    def __init__(self, directory: Path, upstream: str, *flags: str) -> None:
        self.directory = directory
        flags = ("--metrics-port", "0", "--workers", "2", *flags)
        super().__init__(directory, upstream, *flags, TMPDIR=str(directory))

    def scrape(self) -> str:
        return ask(self.metrics_port, "GET /metrics").body.decode()

    def figure(self, name: str, **labels: str) -> float | None:
        """Return the sum of the samples with these labels, None where there is none."""
        text = self.scrape()
        assert text.startswith("#"), self.log[-3000:]
        samples = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(samples) if samples else None

    @property
    def counting(self) -> set[int]:
        """The processes that have left figures."""
        return {int(path.stem.split("_")[1]) for path in self.directory.glob("gateway-metrics-*/counter_*.db")}


@contextmanager
def measured(directory: Path, *flags: str) -> Iterator[tuple[Measured, Recorder]]:
    with Recorder(ok()) as upstream, Measured(directory, upstream.url, *flags) as gateway:
        # More at once than one worker's threads: then both of them have work.
        assert until(lambda: send(gateway, 20) and len(gateway.counting) >= 2)
        yield gateway, upstream


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    """A gateway that has served a little, for tests that change nothing."""
    with measured(tmp_path_factory.mktemp("idle")) as (gateway, _):
        yield gateway


def send(gateway: Running, count: int, token: str = ADMIN) -> list[int]:
    with ThreadPoolExecutor(10) as pool:
        return [answer.status for answer in pool.map(lambda _: gateway.get("/", token), range(count))]


@pytest.mark.slow
def test_the_figures_are_the_whole_gateways(tmp_path: Path) -> None:
    with measured(tmp_path) as (gateway, upstream):
        passed = len(upstream.requests)
        victim = mint(sub="1001", jti="victim")
        gateway.request("POST", "/blacklist", victim)
        send(gateway, 7, victim)
        send(gateway, 3, mint("forged"))
        send(gateway, 1, "no-jwt")
        for _ in range(5):
            gateway.get("/-/ready")

        def count(outcome: str) -> float | None:
            return gateway.figure("gateway_requests_total", outcome=outcome)

        assert gateway.figure("gateway_requests_total", route="upstream", outcome="passed") == passed
        assert (count("token-blacklisted"), count("bad-signature"), count("malformed-token")) == (7, 3, 1)
        assert gateway.figure("gateway_requests_total", route="operators") == 5
        assert gateway.figure("gateway_request_seconds_count") == passed + 1 + 7 + 3 + 1 + 5
        assert gateway.figure("gateway_part_seconds_count", part="auth") == passed + 1 + 7 + 3 + 1
        assert gateway.figure("gateway_part_seconds_count", part="store") == passed + 1 + 7
        assert gateway.figure("gateway_part_seconds_count", part="upstream") == passed
        assert gateway.figure("gateway_tokens_total", remembered="no") <= 2 * 2 + 3 + 1
        assert gateway.figure("gateway_entries") == 1
        assert gateway.figure("gateway_key_age_seconds") == 0
        assert gateway.figure("gateway_requests_in_flight") == 0
        assert gateway.figure("gateway_store_errors_total") == 0
        assert count("internal-error") == 0, "there from the start, so that the first one is an increase"
        decisions = gateway.get("/-/decisions", ADMIN).json["decisions"]
        assert decisions == {"passed": passed + 1, "token-blacklisted": 7, "bad-signature": 3, "malformed-token": 1}


@pytest.mark.slow
def test_figures_survive_the_death_and_the_renewal_of_workers(tmp_path: Path) -> None:
    with measured(tmp_path) as (gateway, upstream):
        passed, counting = len(upstream.requests), gateway.counting
        upstream.answer = lambda talk: talk.peer_left()
        with ThreadPoolExecutor(1) as pool, suppress(OSError):
            held = pool.submit(gateway.get, "/", ADMIN)
            assert until(lambda: gateway.figure("gateway_requests_in_flight") == 1)
            for pid in counting:
                with suppress(ProcessLookupError):  # tried the app at the start, and ended
                    os.kill(pid, SIGKILL)
            held.exception()
        upstream.answer = ok()
        assert until(lambda: gateway.figure("gateway_requests_in_flight") == 0)
        assert gateway.figure("gateway_requests_total", outcome="passed") == passed
        for pid in (gateway.pid, *children(gateway.pid)):  # as a terminal that hangs up
            os.kill(pid, SIGHUP)
        assert until(lambda: send(gateway, 10) and len(gateway.counting - counting) >= 2)
        assert gateway.figure("gateway_requests_total", outcome="passed") == len(upstream.requests) - 1
        next(tmp_path.glob("gateway-metrics-*")).rename(tmp_path / "taken away")  # while the workers write to it
        gateway.signal(SIGHUP)
        assert until(lambda: "the app is loaded anew" in gateway.log.partition("there are no metrics")[2])
        assert set(send(gateway, 10)) == {200}


@pytest.mark.slow
def test_a_store_that_fails_shows_in_every_figure_it_should(tmp_path: Path) -> None:
    with measured(tmp_path) as (gateway, _):
        for file in tmp_path.glob("blacklist.sqlite3*"):
            file.unlink()
        assert set(send(gateway, 4)) == {503}
        assert gateway.figure("gateway_store_errors_total") == 4
        assert gateway.figure("gateway_store_unavailable_total", cause="replaced") == 4
        assert gateway.figure("gateway_entries") is None
        assert gateway.figure("gateway_build_info") == 1


def is_refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


@pytest.mark.slow
def test_whoever_kills_the_process_that_serves_figures_ends_nothing_else(tmp_path: Path) -> None:
    with measured(tmp_path) as (gateway, _):
        before = gateway.figure("gateway_requests_total")
        [serving] = set(children(gateway.pid)) - gateway.counting
        os.kill(serving, SIGKILL)
        assert until(lambda: gateway.log.count("metrics at") == 2)
        assert gateway.figure("gateway_requests_total") == before
        gateway.signal(SIGTERM)
        assert gateway.wait() == 0
        assert is_refused(gateway.metrics_port)


@pytest.mark.slow
def test_nothing_is_left_of_a_gateway_that_was_killed(tmp_path: Path) -> None:
    with measured(tmp_path) as (gateway, _):
        port = gateway.metrics_port
        gateway.signal(SIGKILL)
        gateway.wait()
        assert until(lambda: not list(tmp_path.glob("gateway-metrics-*")))
        assert until(lambda: is_refused(port))


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="nothing is kept in memory here")
def test_figures_lie_on_no_disk_that_may_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system would kill every worker that starts."""
    monkeypatch.delenv("TMPDIR", raising=False)
    with Recorder(ok()) as upstream, Running(tmp_path, upstream.url, "--metrics-port", "0") as gateway:
        gateway.get("/", mint())
        maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in gateway.workers)
        assert "/dev/shm/gateway-metrics-" in maps


@pytest.mark.slow
def test_a_signal_to_all_processes_ends_them_in_order(tmp_path: Path) -> None:
    """As systemd sends it: the figures can be read until the last request is answered."""
    with measured(tmp_path) as (gateway, _):
        for pid in (*children(gateway.pid), gateway.pid):
            os.kill(pid, SIGTERM)
        assert gateway.wait() == 0
        assert "Traceback" not in gateway.log
        assert not list(tmp_path.glob("gateway-metrics-*"))


@pytest.mark.slow
def test_a_scraper_that_says_nothing_holds_up_nobody_for_long(idle: Measured) -> None:
    with socket.create_connection(("127.0.0.1", idle.metrics_port)):
        assert idle.figure("gateway_build_info") == 1


@pytest.mark.slow
def test_scrapers_that_trickle_hold_up_no_other(idle: Measured) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", idle.metrics_port))) for _ in range(40)]
        for _ in range(3):
            for client in clients:
                with suppress(OSError):  # only so many are served at a time
                    client.sendall(b"G")
            assert idle.figure("gateway_build_info") == 1


@pytest.mark.slow
def test_the_port_is_free_when_the_gateway_was_killed_even_if_somebody_trickles(tmp_path: Path) -> None:
    with measured(tmp_path) as (gateway, _):
        port = gateway.metrics_port
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /metrics HT")
            gateway.signal(SIGKILL)
            gateway.wait()
            assert until(lambda: is_refused(port) and is_refused(gateway.port))


@pytest.mark.slow
def test_who_connects_during_the_drain_is_refused_though_figures_can_still_be_had(tmp_path: Path) -> None:
    with measured(tmp_path) as (gateway, upstream):
        upstream.answer = lambda talk: talk.peer_left()
        with ThreadPoolExecutor(1) as pool, suppress(OSError):
            held = pool.submit(gateway.get, "/", ADMIN)
            assert until(lambda: gateway.figure("gateway_requests_in_flight") == 1)
            gateway.signal(SIGTERM)
            assert until(lambda: is_refused(gateway.port))
            assert gateway.figure("gateway_requests_in_flight") == 1
            gateway.signal(SIGQUIT)
            held.exception()


# In this process


@pytest.mark.parametrize("host", ["[::1]", "::1"])
def test_the_address_may_have_the_brackets_that_it_has_in_a_url(
    host: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # to be as it was
    with caplog.at_level("INFO"), collect_figures(host, 0, []) as serve:
        assert serve
        serve()  # it ends at once, as this process is not its parent
    assert "metrics at http://[::1]:" in caplog.text


def test_a_scrape_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ops.exposition.SCRAPE_SECONDS", 0)
    with make_server("127.0.0.1", 0, lambda environ, start: [], _Server, _Handler) as server:
        server.timeout = 0.05
        with socket.create_connection(server.server_address) as client:
            client.sendall(b"GET")
            server.handle_request()
            server.end_late()
            client.settimeout(10)
            assert client.recv(1) == b""


def test_the_figures_of_dead_workers_are_told_from_those_of_living_ones() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert [_is_running(os.getpid()), _is_running(1), _is_running(child)] == [True, True, False]


def test_a_process_that_is_just_starting_breaks_no_scrape(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").touch()
    assert list(add_up(tmp_path)) == []


def request(**values: Any) -> Any:
    return SimpleNamespace(**{"route": None, "status": None, "outcome": "passed", "seconds": 0.1, **values})


def figures(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name: sample.value
        for collector in (metrics._pruned, metrics._age, metrics._in_flight)
        for family in collector.collect()
        for sample in family.samples
    }


def test_a_file_that_another_scrape_removes_at_this_moment_breaks_none(tmp_path: Path) -> None:
    (tmp_path / "gauge_livesum_1.db").symlink_to(tmp_path / "gone")
    assert list(add_up(tmp_path)) == []


def test_what_the_store_prunes_is_counted() -> None:
    pruned = [5]
    metrics = Metrics(lambda: 0.0, lambda: pruned[0])
    metrics.finished({}, request())
    pruned[0] = 8
    metrics.finished({}, request())
    metrics.finished({}, request())
    assert figures(metrics)["gateway_entries_pruned_total"] == 3


def test_lines_that_nobody_read_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = [0]
    monkeypatch.setattr("gateway.ops.metrics.dropped_lines", lambda: dropped[0])
    metrics = Metrics(lambda: 0.0, lambda: 0)
    dropped[0] = 7
    metrics.finished({}, request())
    [family] = metrics._dropped.collect()
    assert {sample.name: sample.value for sample in family.samples}["gateway_log_lines_dropped_total"] == 7


def test_the_sqlite_store_says_how_much_it_prunes(make_gate: Any, clock: Any) -> None:
    gate = make_gate()
    api = Api(gate)
    assert api("POST", "/blacklist", mint(exp=clock() + 10)).status_code == 200
    clock.advance(7200)
    assert gate.pruned() == 0
    api("POST", "/blacklist", mint())
    assert gate.pruned() == 1


def test_the_age_of_keys_is_looked_at_now_and_then() -> None:
    asked: list[float] = []
    metrics = Metrics(lambda: asked.append(1) or 42.0, lambda: 0)  # type: ignore[func-returns-value]
    for _ in range(100):
        metrics.started()
        metrics.finished({}, request())
    assert len(asked) < 100
    assert figures(metrics) == {
        **figures(metrics),
        "gateway_key_age_seconds": 42.0,
        "gateway_requests_in_flight": 0,
    }


# What deploy/ makes of them


def named(text: str) -> set[str]:
    return set(re.findall(r"\bgateway_\w+", text))


def expressions() -> dict[str, str]:
    """Return every expression of the alerts and of the dashboard, by title."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    [group] = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    board = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    found = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    return found | {panel["title"]: "; ".join(t["expr"] for t in panel["targets"]) for panel in board["panels"]}


@pytest.mark.slow
def test_alerts_and_dashboard_name_metrics_and_labels_that_exist(idle: Measured) -> None:
    samples = [s for family in text_string_to_metric_families(idle.scrape()) for s in family.samples]
    known = {sample.name for sample in samples}
    labels = {label for sample in samples for label in sample.labels} | {"instance", "job"}
    told = expressions()
    assert len(told) == 23
    for title, expression in told.items():
        assert named(expression) <= known, title
        assert set(re.findall(r'(\w+)(?:=~?|!=)"', expression)) <= labels, title
    page = (DEPLOY.parent / "docs/operations.md").read_text()
    assert [n for n in known if re.sub("_(bucket|sum|count|created)$", "", n) not in page] == []
    assert known - named("".join(told.values())) <= {
        name for name in known if name.endswith(("_created", "_sum", "_count"))
    }, "a metric that nobody looks at"


def test_every_outcome_that_an_alert_names_can_come_about() -> None:
    for title, expression in expressions().items():
        for outcomes in re.findall(r'outcome=~?"([^"]+)"', expression):
            assert set(outcomes.split("|")) <= KINDS.keys() | {"unmatched"}, title


def test_every_alert_is_explained() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    [group] = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    explained = (DEPLOY.parent / "docs/operations.md").read_text()
    assert [rule["alert"] for rule in group["rules"] if f"`{rule['alert']}`" not in explained] == []


def test_every_cause_of_an_unavailable_store_is_explained() -> None:
    explained = (DEPLOY.parent / "docs/operations.md").read_text()
    assert [cause for cause in WHAT_TO_DO if f"\n| `{cause}` | " not in explained] == []
