"""How upstreams are reached: TLS with names and sessions, new addresses, forward proxies, HTTP/2."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import ExitStack

import httpx
import pytest
from gateway_fakes import OPENAI_TEXT, Close, fake, free_port, gateway, metric, openai_chunk, wait_until
from gateway_fakes import openai as openai_server

from llmops.gateway.upstream import Pool, PoolOptions
from llmops.http1 import Origin, request_head

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def ask(running, **more):
    return httpx.post(f"{running.url}/v1/chat/completions", json={**HELLO, **more}, timeout=20)


# ---- TLS ----


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate for ``localhost``, which signs itself."""
    directory = tmp_path_factory.mktemp("tls")
    key, cert = directory / "key.pem", directory / "cert.pem"
    request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(["openssl", *request.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return key, cert


def letting_go(server, body, answer):
    """Answers, and closes: the next request needs a new connection."""
    raw = b'{"id": "over-tls", "choices": []}'
    answer.whole(200, raw, {"connection": "close"})
    raise Close


TLS = """
providers:
  up: {{base_url: "https://localhost:{port}/v1", ca_file: "{cert}"{more}}}
  strange: {{base_url: "https://localhost:{port}/v1"}}
routes:
  - {{match: m, targets: [{{provider: up}}]}}
  - {{match: s, targets: [{{provider: strange}}]}}
"""


def test_tls_sends_the_name_checks_the_certificate_and_resumes_sessions(tmp_path, certificate):
    key, cert = certificate
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(cert, key)
    names = []
    served.sni_callback = lambda _socket, name, _context: names.append(name)
    with ExitStack() as stack:
        up = stack.enter_context(fake(letting_go, tls=served))
        running = stack.enter_context(gateway(tmp_path, TLS.format(port=up.port, cert=cert, more="")))
        for _ in range(4):
            assert ask(running).json()["id"] == "over-tls"
        assert names == ["localhost"] * 4
        assert up.resumed == [False, True, True, True]
        answer = ask(running, model="s")  # nobody known there signed it
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_tls")
        assert "certificate" in answer.json()["error"]["message"]


# ---- names ----


def test_a_name_that_moves_is_followed(monkeypatch):
    """Connections live for so long, and a new one asks for the address again."""
    with fake(openai_server, host="127.0.0.1") as old, fake(openai_server, host="127.0.0.2", port=old.port) as new:
        address = ["127.0.0.1"]
        real = socket.getaddrinfo

        def lookup(host, *args, **kwargs):
            return real(address[0] if host == "llm.test" else host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", lookup)

        async def go():
            origin = Origin("http", "llm.test", old.port)
            head = request_head("POST", "/v1/chat/completions", origin)
            pool = Pool(origin, PoolOptions(max_age_s=0.2))

            async def once():
                exchange = pool.send_now(head, b'{"model": "m"}') or await pool.send(head, b'{"model": "m"}')
                return await exchange.whole()

            await once()
            address[0] = "127.0.0.2"
            deadline = asyncio.get_running_loop().time() + 10
            while not new.seen and asyncio.get_running_loop().time() < deadline:
                assert OPENAI_TEXT.encode() in await once()
                await asyncio.sleep(0.02)
            pool.close()
            return pool.opened_total

        assert asyncio.run(go()) >= 2
        assert new.seen


# ---- forward proxies and HTTP/2 ----


class Proxy:
    """A forward proxy for plain HTTP: takes the absolute form, and knows the one name that nobody else does."""

    def __init__(self, to_port: int) -> None:
        self.asked: list[str] = []
        self._to = to_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._to)) as up:
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(65536)
                if not data:
                    return
                head += data
            line, _, rest = head.partition(b"\r\n")
            method, target, version = line.split(b" ")
            self.asked.append(target.decode())
            path = b"/" + target.split(b"/", 3)[3]
            up.sendall(b" ".join((method, path, version)) + b"\r\n" + rest)
            back = threading.Thread(target=self._copy, args=(up, client), daemon=True)
            back.start()
            self._copy(client, up)
            back.join()

    @staticmethod
    def _copy(source: socket.socket, to: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            to.close()


def endless(server, body, answer):
    if body.get("model") != "forever":
        openai_server(server, body, answer)
        return
    answer.stream_head()
    while not answer.gone():
        answer.event(openai_chunk({"content": "more"}))
        threading.Event().wait(0.005)
    server.state["aborted"] = True
    raise Close


def test_a_forward_proxy_of_the_environment_is_used(tmp_path):
    config = (
        "providers: {up: {base_url: 'http://llm.test/v1', local: true}, here: {base_url: 'URL/v1'}}\n"
        "routes:\n  - {match: m, targets: [{provider: up}]}\n  - {match: forever, targets: [{provider: up}]}\n"
        "  - {match: near, targets: [{provider: here}]}\n"
    )
    with fake(endless) as up:
        proxy = Proxy(up.port)
        env = {"HTTP_PROXY": proxy.url, "http_proxy": proxy.url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        with gateway(tmp_path, config.replace("URL", up.url), env=env) as running:
            assert ask(running).json()["choices"][0]["message"]["content"] == OPENAI_TEXT
            streamed = ask(running, stream=True)
            assert "aitch" in streamed.text
            assert streamed.text.endswith("data: [DONE]\n\n")
            assert set(proxy.asked) == {"http://llm.test/v1/chat/completions"}
            before = len(proxy.asked)
            assert ask(running, model="near").status_code == 200
            assert len(proxy.asked) == before  # NO_PROXY
            with httpx.stream(
                "POST", f"{running.url}/v1/chat/completions", json={**HELLO, "model": "forever", "stream": True}
            ) as answer:
                next(answer.iter_lines())
            wait_until(lambda: up.state.get("aborted"), what="the stream behind the proxy is aborted")
            wait_until(lambda: metric(running.metrics(), "llm_requests_in_flight") == 0)
            proxy.close()
            gone = ask(running)
            assert (gone.status_code, gone.json()["error"]["code"]) in (
                (502, "upstream_refused"),
                (502, "upstream_cut"),
            )


NGINX = """
daemon off; pid {dir}/pid; error_log {dir}/error.log; worker_processes 1;
events {{ worker_connections 64; }}
http {{
  log_format protocol '$server_protocol $request_uri'; access_log {dir}/access.log protocol;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;
  scgi_temp_path {dir}/s;
  server {{
    listen 127.0.0.1:{port} ssl http2; ssl_certificate {cert}; ssl_certificate_key {key};
    location / {{ proxy_pass {up}; proxy_http_version 1.1; proxy_buffering off; }}
  }}
}}
"""


@pytest.mark.slow
def test_an_upstream_over_http_2(tmp_path, certificate):
    pytest.importorskip("h2", reason="HTTP/2: pip install 'llmops[http2]'")
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if nginx is None:
        pytest.skip("nginx, which speaks HTTP/2 here, is not installed")
    key, cert = certificate
    port = free_port()
    with fake(openai_server) as up:
        conf = tmp_path / "nginx.conf"
        conf.write_text(NGINX.format(dir=tmp_path, port=port, cert=cert, key=key, up=up.url))
        server = subprocess.Popen([nginx, "-c", conf, "-p", tmp_path, "-e", tmp_path / "error.log"])
        try:
            config = TLS.format(port=port, cert=cert, more=", http: http2")
            with gateway(tmp_path, config) as running:
                wait_until(lambda: ask(running).status_code == 200, what="nginx answers")
                assert "aitch" in ask(running, stream=True).text
        finally:
            server.terminate()
            server.wait(10)
        lines = (tmp_path / "access.log").read_text().splitlines()
        assert lines
        assert all(line == "HTTP/2.0 /v1/chat/completions" for line in lines)
