"""TLS in front of the truth server: ends the encryption, counts the handshakes, passes the bytes on."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import threading
from typing import Self


class Front:
    """A TLS port before ``port``; ``certificate`` is the one to trust."""

    def __init__(self, port: int, directory) -> None:
        self.handshakes = self.port = 0
        self.certificate, key = directory / "cert.pem", directory / "key.pem"
        request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        command = ["openssl", *request.split(), "-keyout", key, "-out", self.certificate]
        subprocess.run(command, check=True, capture_output=True)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(self.certificate, key)
        self._behind = port
        self._loop = asyncio.new_event_loop()

    async def _pass(self, reader, writer) -> None:
        self.handshakes += 1
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self._stop = asyncio.Event()
        ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(ready),))
        self._thread.start()
        ready.wait(10)
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        with contextlib.suppress(RuntimeError):
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


async def _copy(reader, writer) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
