"""The system calls of a command, counted from outside by strace."""

import collections
import pathlib
import re
import shutil
import tempfile

KINDS = {
    "syncs": {"fsync", "fdatasync", "syncfs"},
    "names": {"linkat", "unlink", "renameat2", "rename", "mkdir"},
    "opens": {"openat"},
    "reads": {"pread64"},
}
WRITES = {"write", "writev", "pwrite64", "pwritev", "pwritev2"}
SENDS = {"write", "writev", "sendto", "sendmsg"}
# How often threads wait, for each other or for a socket, and how the allocator grows is another number in every run.
WAITS = {"futex", "sched_yield", "epoll_wait", "epoll_pwait", "brk", "madvise", "mmap", "mprotect", "munmap"}
CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
DESCRIPTOR = re.compile(r"\d+<([^>]*)>")
REQUEST = re.compile(r'\d+<socket:.*"(?:GET /|POST )')
# What SQLite writes to its log is headers of 24 and 32 bytes, and pages.
SMALLEST_PAGE = 512


class Trace:
    """Traces a command that begins with the words of `wrapper`; what is counted is there when it has ended. Without strace there
    are no words, and nothing is counted."""

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="strandline-trace-")
        # A file for each thread, because in one file for all of them calls interrupt each other. Five bytes of a string tell a
        # request.
        into = f"{self.directory.name}/thread"
        strace = ("strace", "-ff", "-y", "-qq", "-s", "5", "-e", "signal=none", "-o", into)
        self.wrapper = strace if shutil.which("strace") else ()
        return self

    def __exit__(self, *_):
        self.directory.cleanup()

    def __iter__(self):
        """Each call: its name, its arguments as strace writes them, and what it returned."""
        for thread in sorted(pathlib.Path(self.directory.name).iterdir()):
            with open(thread, errors="replace") as lines:
                yield from (call.groups() for call in map(CALL.match, lines) if call)

    def kinds(self):
        """How many calls of each kind there were."""
        names = collections.Counter(name for name, _, _ in self)
        return {kind: sum(names[name] for name in of) for kind, of in KINDS.items()} if self.wrapper else {}

    def totals(self, store):
        """How much the command did, to `store` as far as bytes are concerned, without calls that wait or are about memory."""
        if not self.wrapper:
            return {}
        totals = dict.fromkeys(("requests", "system calls", "bytes written to files", "bytes written to the catalog's log",
                                "pages written to the catalog's log", "bytes copied into the catalog"), 0)
        for name, arguments, returned in self:
            totals["system calls"] += name not in WAITS
            totals["requests"] += name in SENDS and REQUEST.match(arguments) is not None
            to = name in WRITES and DESCRIPTOR.match(arguments)
            # What strandline-bench writes to time the root lists is not the mirror's.
            if not to or not to[1].startswith(f"{store}/") or to[1].endswith("/incoming/measured"):
                continue
            written = max(int(returned), 0)
            if to[1].endswith("-wal"):
                totals["bytes written to the catalog's log"] += written
                totals["pages written to the catalog's log"] += written >= SMALLEST_PAGE
            elif to[1].endswith("/catalog.db"):
                totals["bytes copied into the catalog"] += written
            else:
                totals["bytes written to files"] += written
        return totals
