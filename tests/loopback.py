"""HTTP servers on loopback, which tests start and stop."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Loopback:
    """What answers requests between `start` and `stop`."""

    def start(self, handler: type[BaseHTTPRequestHandler]) -> int:
        """Answer by this handler, each request in a thread of its own; the port."""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self._http.server_port

    def stop(self) -> None:
        """Answer no more."""
        self._http.shutdown()
        self._http.server_close()
