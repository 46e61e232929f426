"""Stores of so many projects, filled by strandline-bench without a network."""

import json
import subprocess
import sys

from .machine import Image, measured, run
from .upstreams import config, served_log

CHANGED = 300


class World:
    """A store of so many projects, of a file or more each, in an image of its own. `of` tells two worlds of one size apart."""

    def __init__(self, programs, projects, files=1, of=""):
        self.programs = programs
        self.projects, self.files = projects, files
        self.name = f"scale-{projects}-{files}{of and '-'}{of}"
        inodes = projects * (9 + 3 * files) + 200_000
        self.image = Image(self.name, inodes, inodes * 6_000 + (1 << 30))
        self.port = 18_700 + len(str(projects)) * 10 + files % 10
        self.upstream = f"http://127.0.0.1:{self.port}/simple/"
        self.events = 0

    def __enter__(self):
        self.place = self.image.__enter__()
        self.store = self.place / "store"
        return self

    def __exit__(self, *exception):
        self.image.__exit__(*exception)

    @property
    def head(self):
        """Upstream's last serial."""
        return self.projects + self.events

    def sync(self, events, *wrapper):
        """A sync after so many more events; returns what it says of itself."""
        of = (self.upstream, self.projects, self.files, 200, events)
        out = run(*wrapper, self.programs.bench, "sync", self.store, *of)
        self.events += events
        result = json.loads(out.splitlines()[-1])
        print(f"{self.name}: {result}", file=sys.stderr)
        return result

    def bare(self):
        return json.loads(run(self.programs.bench, "bare", self.place / "bare", CHANGED, 700))["publish"]

    @property
    def _since(self):
        """After which serials a sync may ask for the log: by `overlap` before the head, and one more."""
        return [max(0, self.head - back) for back in (5_000, 5_001)]

    def served_log(self):
        """Serves upstream's log as it is now."""
        of = (self.upstream, self.projects, self.files, 200, self.events)
        log = {since: run(self.programs.bench, "log", *of, since).encode() for since in self._since}
        return served_log(self.port, log)

    def words(self, *words, keep=""):
        """A command of the program; with `keep`, what is not kept is deleted at once."""
        settings = config(self.place, self.store, self.upstream, keep)
        return self.programs.strandline, "--quiet", "--config", settings, *words

    def command(self, *words, wrapper=()):
        """Runs the program; returns what it took."""
        return measured(*wrapper, *self.words(*words), stdout=subprocess.DEVNULL)

    def curl_log(self):
        call = (
            "<?xml version='1.0'?><methodCall><methodName>changelog_since_serial</methodName><params><param><value>"
            f"<int>{self._since[0]}</int></value></param></params></methodCall>"
        )
        url = self.upstream.replace("/simple/", "/pypi")
        return measured("curl", "-fsS", "-H", "Content-Type: text/xml", "-d", call, "-o", "/dev/null", url)["wall"]
