"""The official SDK (vgs-api-client 0.0.51) against the simulator, its aliases through the proxy, and Prism."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
import vgs

USERNAME, PASSWORD = "USsandbox", "7d2f3a51-sandbox"
NUMBER = "4242424242424242"


@pytest.fixture
def sim(simulator: Any) -> Iterator[Any]:
    """The simulator; whatever was sent to it is as the published description says."""
    started = simulator("vault-vgs")
    yield started
    assert started.problems == []


def aliases(sim: Any, password: str = PASSWORD) -> vgs.Aliases:
    return vgs.Aliases(vgs.config(username=USERNAME, password=password, host=sim.url))


def redact(api: vgs.Aliases, value: str, storage: str = "PERSISTENT") -> str:
    made = api.redact([{"value": value, "format": "UUID", "storage": storage, "classifiers": ["card-number"]}])
    return str(made[0]["aliases"][0]["alias"])


def test_a_value_is_redacted_revealed_classified_and_deleted(sim: Any) -> None:
    api = aliases(sim)
    alias = redact(api, NUMBER)
    assert alias.startswith("tok_sandbox_")
    assert redact(api, NUMBER) == alias
    assert api.reveal(alias)[alias]["value"] == NUMBER
    api.update(alias, {"classifiers": ["PII"]})
    assert api.reveal(alias)[alias]["classifiers"] == ["PII"]
    api.delete(alias)
    with pytest.raises(vgs.exceptions.NotFoundException):
        api.reveal(alias)


def test_a_wrong_password_is_refused(sim: Any) -> None:
    with pytest.raises(vgs.exceptions.UnauthorizedException):
        redact(aliases(sim, "wrong"), NUMBER)


def test_a_client_that_is_not_ours_gets_its_aliases_filled_in_by_the_proxy(sim: Any) -> None:
    """Python's own HTTP client, through TLS to the proxy; the target is plain, so there is no tunnel in this one."""
    received: list[dict[str, str]] = []

    class Target(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Target)
    Thread(target=server.serve_forever, daemon=True).start()
    alias = redact(aliases(sim), NUMBER)
    ca = urllib.request.urlopen(f"{sim.url}/_control/ca").read().decode()  # noqa: S310
    proxy_port = int(sim.control("GET", "proxy")["url"].rsplit(":", 1)[1])
    context = ssl.create_default_context(cadata=ca)
    connection = http.client.HTTPSConnection("127.0.0.1", proxy_port, context=context)
    credentials = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    headers = {"Proxy-Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{server.server_port}/charges"
    connection.request("POST", url, json.dumps({"number": alias}), headers)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["VGS-Upstream-Status-Code"]) == (201, "201")
    assert received == [{"number": NUMBER}]
    server.shutdown()


def test_prism_takes_what_the_provider_sends(prism: Any) -> None:
    """The two calls of the provider, byte for byte as httpx sends them, against the published description."""
    url = prism("plugins/vault-vgs/tests/spec/api.yaml")
    credentials = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    for method, body in (("PUT", b'{"data":{"classifiers":["card-number"]}}'), ("DELETE", None)):
        headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
        request = urllib.request.Request(  # noqa: S310
            f"{url}/aliases/tok_sandbox_bhtsCwFUzoJMw9rWUfEV5e", data=body, headers=headers, method=method
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            assert answer.status == 204
