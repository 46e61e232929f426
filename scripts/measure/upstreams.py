"""The indexes that are mirrored, on loopback, and the configuration of a mirror of them."""

import contextlib
import http.server
import json
import re
import subprocess
import threading
import urllib.request

from .machine import measured

JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}


class Index:
    """The fake index, while it is needed."""

    def __init__(self, fake_index, projects, files, size):
        self.process = subprocess.Popen(
            [fake_index, "0", str(projects), str(files), str(size)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.url = self.process.stdout.readline().strip().rstrip("/")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def get(self, url):
        with urllib.request.urlopen(urllib.request.Request(url, headers=JSON)) as answer:
            return json.load(answer)

    def urls(self):
        """Every page, file and metadata file that a first sync fetches."""
        urls = []
        for project in self.get(f"{self.url}/simple/")["projects"]:
            page = f"{self.url}/simple/{project['name'].lower().replace('_', '-')}/"
            urls.append(page)
            for file in self.get(page)["files"]:
                urls.append(file["url"])
                if file.get("core-metadata"):
                    urls.append(file["url"] + ".metadata")
        return urls


class Log(http.server.BaseHTTPRequestHandler):
    """Answers with the log after the serial that is asked for, if it has that one, and counts the requests."""

    protocol_version = "HTTP/1.1"
    bodies, requests = {}, 0

    def do_POST(self):
        type(self).requests += 1
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        since = re.search(rb"<(?:int|i4|i8)>(\d+)<", asked)
        body = self.bodies.get(int(since[1]) if since else None)
        self.send_response(500 if body is None else 200)
        self.send_header("Content-Type", "text/xml; charset=utf-8")
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served_log(port, bodies):
    """Serves a log, by the serials after which it may be asked for; gives how many requests there were so far."""
    Log.bodies = bodies
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Log)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield lambda: Log.requests
    finally:
        server.shutdown()
        server.server_close()


def config(place, store, upstream, keep=""):
    """Writes the configuration of one mirror; returns its path. With `keep`, what gc drops is deleted at once."""
    text = (
        f'store = "{store}"\n' + ('grace = "0s"\n' if keep else "") +
        f'[mirror.pypi]\nupstream = "{upstream}"\nsource = "warehouse"\n'
        'settle = "0s"\ndrain = "0s"\nrecheck = "36500d"\n' + (f"keep = {keep}\n" if keep else "")
    )
    path = place / "strandline.toml"
    path.write_text(text)
    return path


def curl_and_sums(place, urls):
    """curl fetches the same URLs, and sha256sum reads what came."""
    out = place / "curl"
    out.mkdir()
    lines = [f'url = "{url}"\noutput = "{out}/{number}"\n' for number, url in enumerate(urls)]
    (place / "curl.conf").write_text(f'header = "Accept: {JSON["Accept"]}"\n' + "".join(lines))
    fetch = measured("curl", "-Z", "--parallel-max", "16", "-fsS", "--no-progress-meter", "-K", place / "curl.conf")
    check = measured("sh", "-c", f"find {out} -type f -print0 | xargs -0 sha256sum > {place}/sums")
    return {key: fetch[key] + check[key] for key in ("wall", "cpu")} | {"memory": max(fetch["memory"], check["memory"])}
