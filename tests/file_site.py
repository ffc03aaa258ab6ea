"""A web server of files that breaks off, stalls and refuses when it is told to."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Site:
    """A server of files that can be told to break off."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    """For each coming answer, after how many bytes it breaks off."""
    etag: str | None = '"one"'
    ranges: list[str | None] = field(default_factory=list)
    status: int | None = None
    slowly: float = 0.0


class Handler(BaseHTTPRequestHandler):
    """Serve `site.files` with ranges, as a plain web server does."""

    site: Site

    def do_GET(self) -> None:
        site = self.site
        content = site.files.get(self.path)
        wanted = self.headers.get("Range")
        site.ranges.append(wanted)
        if content is None or site.status:
            self.send_error(site.status or 404)
            return
        start = 0
        if wanted and self.headers.get("If-Range") == site.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        if site.etag:
            self.send_header("ETag", site.etag)
        self.end_headers()
        body = content[start:]
        if site.cut_after:
            body = body[: site.cut_after.pop(0)]
        for offset in range(0, len(body), 1 << 16):
            self.wfile.write(body[offset : offset + (1 << 16)])
            time.sleep(site.slowly)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Site]:
    """Serve files on a free port of loopback until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Site(f"http://127.0.0.1:{server.server_port}")
        Handler.site = made
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield made
        server.shutdown()
        thread.join()
