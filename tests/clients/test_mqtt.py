"""MQTT over WebSocket: paho in front, mosquitto behind."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.clients.program import PATIENCE, Program, free_port, program
from tests.process.daemon import Daemon

MESSAGES = 50


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[int]:
    """A mosquitto of this test; gives its port."""
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    user = "user root\n" if os.geteuid() == 0 else ""
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n{user}")
    with Program(program("mosquitto"), "-c", config, "-v") as server:
        server.accepts(port)
        yield port


@pytest.fixture
def bridge(mosquitto: int) -> Iterator[Daemon]:
    """The bridge in front of mosquitto."""
    with Daemon(
        f"""
        listeners:
          web: {{bind: '127.0.0.1:0'}}
        routes:
          mqtt:
            match: {{path: /mqtt}}
            backend: tcp://127.0.0.1:{mosquitto}
            subprotocols: [mqtt]
            auth: none
        """,
    ) as bridge:
        yield bridge


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5], ids=["3.1.1", "5"])
def test_messages(bridge: Daemon, version: MQTTProtocolVersion) -> None:
    """A client gets back all that it publishes, in order and whole, small and larger than a frame."""
    arrived: queue.Queue[tuple[str, bytes]] = queue.Queue()
    subscribed: queue.Queue[bool] = queue.Queue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, transport="websockets", protocol=version)
    client.ws_set_options(path="/mqtt")
    client.on_connect = lambda client, *_: client.subscribe("out/#", qos=1)
    client.on_subscribe = lambda *_: subscribed.put(True)
    client.on_message = lambda _client, _data, message: arrived.put((message.topic, message.payload))
    sent = [(f"out/{number}", os.urandom(1 + number * 4000)) for number in range(MESSAGES)]

    client.connect("127.0.0.1", bridge.port())
    client.loop_start()
    try:
        assert subscribed.get(timeout=PATIENCE)
        for topic, payload in sent:
            client.publish(topic, payload, qos=1)
        assert [arrived.get(timeout=PATIENCE) for _ in sent] == sent
    finally:
        client.disconnect()
        client.loop_stop()

    end = bridge.wait("connection.closed", route="mqtt")
    assert end["subprotocol"] == "mqtt"
    assert end["bytes_to_client"] > sum(len(payload) for _, payload in sent)
