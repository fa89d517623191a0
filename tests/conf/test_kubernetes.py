"""conf/kubernetes.yml: what of it can be tried without a cluster, in a sandbox like its container."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect

from tests import forked
from tests.clients.program import PATIENCE, free_port, run
from tests.clients.program import program as path_of
from tests.process.daemon import Daemon
from tests.process.plain import Clients, Socket, backend
from wsbridge.config.load import load_text
from wsbridge.registry import CONFIG_REGISTRY

FILE = Path(__file__).parents[2] / "conf" / "kubernetes.yml"
OBJECTS = {each["kind"]: each for each in yaml.safe_load_all(FILE.read_text())}
TEXT: str = OBJECTS["ConfigMap"]["data"]["wsbridge.yaml"]
POD: dict[str, Any] = OBJECTS["Deployment"]["spec"]["template"]
CONTAINER: dict[str, Any] = POD["spec"]["containers"][0]
CONFIG = load_text(TEXT, file="wsbridge.yaml", registry=CONFIG_REGISTRY, environ={}, check_files=False).config


def test_ports_paths_and_labels_belong_together() -> None:
    """Probes, ports, metrics, mounts and selectors name what the configuration and the other objects have."""
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    monitoring = yaml.safe_load(TEXT)["monitoring"]["bind"]
    assert monitoring == f"0.0.0.0:{ports['monitoring']}"
    assert yaml.safe_load(TEXT)["listeners"]["web"]["bind"] == f"0.0.0.0:{ports['http']}"
    assert CONTAINER["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "monitoring"}
    assert CONTAINER["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "monitoring"}
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(ports["monitoring"])
    assert OBJECTS["Service"]["spec"]["ports"][0]["targetPort"] in ports
    labels = POD["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert OBJECTS[kind]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    mounts = {each["name"]: each["mountPath"] for each in CONTAINER["volumeMounts"]}
    assert set(mounts) == {each["name"] for each in POD["spec"]["volumes"]}
    assert CONTAINER["args"] == ["run", "-c", f"{mounts['config']}/wsbridge.yaml"]
    assert f"{mounts['secrets']}/tokens" in TEXT
    assert f"unix:{mounts['run']}/" in TEXT


def test_the_grace_period_is_long_enough() -> None:
    """The kernel kills no connection before wsbridge has closed it, and the probe fails in time."""
    timeouts = CONFIG.timeouts
    probe = CONTAINER["readinessProbe"]
    assert POD["spec"]["terminationGracePeriodSeconds"] >= timeouts.drain_delay + timeouts.drain + timeouts.close + 10
    assert timeouts.drain_delay >= probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]


class Volume:
    """A directory as the kubelet makes it of a ConfigMap or a Secret: its files are links by way of `..data`."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self._folder, self._count = folder, 0
        folder.mkdir()
        self.update(files)
        for name in files:
            (folder / name).symlink_to(f"..data/{name}")

    def update(self, files: dict[str, str]) -> None:
        """Exchange all files at once, by the link."""
        self._count += 1
        version = self._folder / f"..2026_{self._count}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
            (version / name).chmod(0o440)
        (self._folder / "..data_tmp").symlink_to(version.name)
        (self._folder / "..data_tmp").rename(self._folder / "..data")
        shutil.rmtree(self._folder / f"..2026_{self._count - 1}", ignore_errors=True)


class Pod:
    """The container, as far as a sandbox can be like it: process 1, not root, no capabilities, nothing writable.

    Attributes:
        daemon: The sandbox; it logs as wsbridge does.
        port: Where wsbridge listens.
        monitoring: Where it answers probes.
        text: Its configuration.
        config: The volume of the ConfigMap.
        secrets: The volume of the Secret.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.port, self.monitoring = free_port(), free_port()
        self._folder = folder
        self._run = folder / "run"
        self._run.mkdir()
        self.text = (
            TEXT.replace("0.0.0.0:8080", f"127.0.0.1:{self.port}")
            .replace("0.0.0.0:9090", f"127.0.0.1:{self.monitoring}")
            .replace("10.244.0.0/16", "127.0.0.1")
            .replace("/etc/wsbridge-secrets", str(folder / "secrets"))
            .replace("/run/wsbridge", str(self._run))
            .replace("tcp://desktop.default.svc.cluster.local:5900", url)
            .replace("drain_delay: 10s", "drain_delay: 4s")
        )
        self.config = Volume(folder / "config", {"wsbridge.yaml": self.text})
        self.secrets = Volume(folder / "secrets", {"tokens": ""})
        self.token = self.new_token("alice")

    def new_token(self, name: str) -> str:
        """Put one new token into the Secret; give it."""
        done = forked.run(
            [sys.executable, "-m", "wsbridge", "new-token", name], capture_output=True, text=True, check=True
        )
        self.secrets.update({"tokens": done.stdout})
        return next(word for word in done.stderr.split() if len(word) > 30)

    def start(self) -> Daemon:
        """Give the daemon in its sandbox."""
        mode = POD["spec"]["securityContext"]
        sandbox = [path_of("bwrap"), "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        sandbox += ["--bind", str(self._run), str(self._run), "--unshare-user", "--unshare-pid", "--as-pid-1"]
        sandbox += ["--uid", str(mode["runAsUser"]), "--gid", str(mode["runAsGroup"]), "--cap-drop", "ALL"]
        sandbox += ["--die-with-parent", "--"]
        self.daemon = Daemon("", prefix=sandbox, arguments=["-c", str(self._folder / "config" / "wsbridge.yaml")])
        return self.daemon

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to wsbridge, as the kubelet does."""
        (child,) = Path(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children").read_text().split()
        os.kill(int(child), number)

    def reload(self) -> None:
        """Run `wsbridge reload` in it."""
        run(sys.executable, "-m", "wsbridge", "reload", "--admin", f"{self._run}/admin.sock")

    def client(self, token: str, path: str = "/vnc") -> None:
        """Be served as a client that comes by way of the Ingress."""
        headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": "192.0.2.7"}
        sock = Socket.connect(self.port).sock
        with connect(
            f"ws://gw.example.org{path}", sock=sock, additional_headers=headers, proxy=None, open_timeout=PATIENCE
        ) as client:
            client.send(b"hello")
            assert client.recv(timeout=PATIENCE) == b"hello"

    def probe(self, path: str) -> bytes:
        """Ask as the kubelet does."""
        with Socket.connect(self.monitoring) as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: 10.244.0.7:9090\r\nUser-Agent: kube-probe/1.32\r\n\r\n".encode())
            return client.everything().partition(b"\r\n")[0]


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    """A running one, in front of an echo."""
    with backend() as back:
        pod = Pod(tmp_path, back.url)
        with pod.start():
            yield pod


def test_the_container(pod: Pod) -> None:
    """It runs as process 1 without root and without a writable file system, and follows what Kubernetes changes."""
    assert pod.daemon.ready["pid"] == 1
    metrics = POD["metadata"]["annotations"]["prometheus.io/path"]
    assert {pod.probe(path) for path in ("/livez", "/readyz", metrics)} == {b"HTTP/1.1 200 OK"}
    pod.client(pod.token)
    assert pod.daemon.wait("connection.closed")["peer"] == "192.0.2.7:0"

    later = pod.new_token("bob")  # without a reload
    pod.daemon.until(lambda: accepted(pod, later))
    assert not accepted(pod, pod.token)

    for path, take in (("/second", pod.reload), ("/third", lambda: pod.signal(signal.SIGHUP))):
        pod.config.update({"wsbridge.yaml": pod.text.replace("path: /vnc", f"path: {path}")})
        count = len(pod.daemon.log_lines("config.reloaded"))
        take()
        pod.daemon.wait("config.reloaded", count + 1)
        pod.client(later, path)

    with Clients(lambda: served(pod, later)) as clients:
        clients.reach(3)
        pod.signal(signal.SIGTERM)
        pod.daemon.until(lambda: pod.probe("/readyz") == b"HTTP/1.1 503 Service Unavailable")
        assert pod.probe("/livez") == b"HTTP/1.1 200 OK"
        clients.reach(clients.served + 3)
    assert pod.daemon.ended(30) == 0


def served(pod: Pod, token: str) -> None:
    """Be served by the last configuration."""
    try:
        pod.client(token, "/third")
    except WebSocketException as error:
        raise AssertionError(repr(error)) from error


def accepted(pod: Pod, token: str) -> bool:
    """Whether a token is accepted."""
    try:
        pod.client(token)
    except InvalidStatus as error:
        assert error.response.status_code == 401
        return False
    return True
