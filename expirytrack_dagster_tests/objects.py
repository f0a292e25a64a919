"""An object store of the tests' own: moto's server on a free port of this machine, with a bucket, that can be away.

Nothing of the product is known here.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BUCKET = "lake"


class ObjectStore:
    """A store that answers 503 to everything while it is away."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        """Stand before an application of WSGI."""
        self._app = app
        self._back_at = 0.0
        self.url = ""
        self.refused = 0

    def go_away(self, seconds: float) -> None:
        """Answer 503 from now on for so long."""
        self._back_at = time.monotonic() + seconds

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer, or refuse to."""
        if time.monotonic() >= self._back_at:
            return self._app(environ, start_response)
        self.refused += 1
        start_response("503 Slow Down", [("Content-Type", "application/xml")])
        return [b"<Error><Code>SlowDown</Code></Error>"]


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Yield a store with one empty bucket."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415 -- takes a second
    from werkzeug.serving import WSGIRequestHandler, make_server  # noqa: PLC0415

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_: object) -> None:
            """Write no line for each request."""

    store = ObjectStore(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=Quiet)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        store.url = f"http://127.0.0.1:{server.server_port}"
        urlopen(Request(f"{store.url}/{BUCKET}", method="PUT")).close()  # noqa: S310 -- our own address
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
