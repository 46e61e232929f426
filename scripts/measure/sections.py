"""The sections of docs/performance.md. Each measures its things beside a reference in the same run, and returns the lines of
its table; `scale` returns the curves of the plot, too."""

import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
import urllib.request

from . import catalog
from .machine import Image, measured, run
from .results import column, row
from .upstreams import Index, config, curl_and_sums
from .worlds import CHANGED, World


def first(programs, name, runs, projects, files, size):
    """First syncs over loopback, each beside curl in an image of its own; returns both lists, how many URLs there were, and
    what `verify --data` and the disk say of the last store."""
    ours, reference = [], []
    with Index(programs.fake_index, projects, files, size) as index:
        urls = index.urls()
        for number in range(runs):
            with Image(name, projects * (2 * files + 20) * 3 + 200_000, 3 * projects * files * size + (2 << 30)) as place:
                settings = config(place, place / "store", f"{index.url}/simple/")
                reference.append(curl_and_sums(place, urls))
                os.sync()
                ours.append(measured(programs.strandline, "--quiet", "--config", settings, "sync"))
                print(f"{name}: curl {reference[-1]}\n{name}: sync {ours[-1]}", file=sys.stderr)
                if number == runs - 1:
                    more = [verify(programs.strandline, place, name, runs), *disk(place / "store", name)]
    return ours, reference, len(urls), more


def first_sync(programs, runs, full):
    ours, reference, urls, more = first(programs, "first-sync", runs, 2000, 5, 20_000)
    what = f"first sync, 2,000 projects, 10,000 files, 210 MB ({urls:,} URLs)"
    against = "`curl -Z --parallel-max 16` and `sha256sum`"
    return [
        row(what, "CPU s", column(ours, "cpu"), 1.5, column(reference, "cpu"), note=against),
        row(what, "wall s", column(ours, "wall"), 1.5, column(reference, "wall"), note=against),
        row(what, "peak MiB", column(ours, "memory"), 150),
        *more,
    ]


def large_files(programs, runs, full):
    ours, reference, _, more = first(programs, "large-files", runs, 40, 5, 20_000_000)
    what = "first sync, 200 files of 20 MB"
    return [
        row(what, "wall s", column(ours, "wall"), 1.2, column(reference, "wall"), note="the same with curl"),
        row(what, "peak MiB", column(ours, "memory"), 150),
        *more,
    ]


def grown(programs, projects, runs):
    """What a world of so many projects costs."""
    with World(programs, projects) as world:
        found = {"first": world.sync(0), "requests": 0}
        found |= {name: [] for name in ("publish", "bare", "lists", "growth", "no-op", "curl", "rollback", "again", "diff")}
        world.sync(CHANGED)  # fills the second twin
        for _ in range(max(runs, 10)):
            before = catalog.bytes_used(world.store)
            found["bare"].append(world.bare())
            done = world.sync(CHANGED)
            found["publish"].append(done["publish"])
            found["lists"].append(done["lists"])
            found["growth"].append(catalog.share_of_allowed_growth(world.store, before, done))
        now, then = world.head, world.head - 10 * CHANGED
        took = lambda *words: world.command(*words)["wall"]
        with world.served_log() as requests:
            took("sync")  # what it finds out once
            for _ in range(max(runs, 5)):
                found["curl"].append(world.curl_log())
                before = requests()
                found["no-op"].append(took("sync"))
                found["requests"] = max(found["requests"], requests() - before)
                found["diff"].append(took("diff", "pypi", then, now))
                found["rollback"].append(took("rollback", "pypi", then))
                found["again"].append(took("rollback", "pypi", "--resume"))
                # The standby is ten snapshots back now. It is brought to the last but one, where a sync leaves it.
                took("rollback", "pypi", now - CHANGED)
                took("rollback", "pypi", "--resume")
    found["net"] = [took - lists for took, lists in zip(found["publish"], found["lists"])]
    return found


def scale(programs, runs, full):
    """Worlds of 7,000 projects and more: what must not grow with them."""
    found = {projects: grown(programs, projects, runs) for projects in [7_000, 70_000] + ([700_000] if full else [])}
    rows = []
    small = found[7_000]
    for projects, at in found.items():
        where = f"at {projects:,} projects"
        more = [1000 * (took - curl) for took, curl in zip(at["no-op"], at["curl"])]
        rows.append(row(f"no-op sync {where}, beyond curl's", "ms more", more, 30))
        rows.append(row(f"no-op sync {where}", "requests", [at["requests"]], 1))
        # At other sizes, publishing is compared with itself.
        rows.append(row(f"publish {CHANGED} changed projects {where}, without the root lists", "s", at["net"],
                        3 if projects == 7_000 else None, at["bare"], note="the bare program"))
        rows.append(row(f"root lists {where} ({at['first']['lists_bytes'] / 1e6:.0f} MB)", "s", at["lists"], 1))
        rows.append(row(f"catalog growth of a sync {where}", "share of what is allowed", at["growth"], 1))
        memory = at["first"]["memory"] / (1 << 20)
        rows.append(row(f"first sync {where}", "peak MiB", [memory], 600))
        if projects > 7_000:
            for name, key, bar in (
                (f"no-op sync {where}", "no-op", 2),
                (f"rollback over 10 snapshots {where}", "rollback", 2),
                (f"diff of two serials {where}", "diff", 2),
                (f"a switch to what the other tree has, 10 snapshots on, {where}", "again", None),
                (f"publish {where}, without the root lists", "net", 2),
            ):
                rows.append(row(name, "s", at[key], bar, small[key], note="at 7,000"))
    curves = {"publish, without the lists": "net", "root lists": "lists", "no-op sync": "no-op", "rollback": "rollback",
              "diff": "diff"}
    medians = lambda key: {size: statistics.median(at[key]) for size, at in found.items()}
    return rows, {name: medians(key) for name, key in curves.items()}


def many_files(programs, runs, full):
    """First syncs of projects with more and more files: memory grows until the catalog has filled its cache of 32 MB."""
    peak = {}
    for files in (1, 10, 30):
        with World(programs, 7_000, files) as world:
            peak[files] = [world.sync(0)["memory"] / (1 << 20)]
    what = "first sync of 7,000 projects with"
    return [
        row(f"{what} 1 file each", "peak MiB", peak[1], 600),
        row(f"{what} 30 files each", "peak MiB", peak[30], 1.25, peak[10], note="with 10 files each"),
    ]


def gc(programs, runs, full):
    units, files = (700_000 if full else 70_000), 20
    with Image("gc", 200_000, 16 << 30) as place:
        store = place / "store"
        run(programs.bench, "catalog", store, units, files)
        command = (programs.strandline, "--quiet", "--config", config(place, store, "http://127.0.0.1:1/simple/"))

        def taking(*words):
            return [measured(*command, *words, stdout=subprocess.DEVNULL) for _ in range(runs)]

        collected = taking("gc", "--dry-run")
        log = run(*command, "log", "pypi", "--json").splitlines()
        then, now = sorted((json.loads(line)["serial"] for line in log), key=int)
        compared = taking("diff", "pypi", then, now)
        # What is left out is the look at each file: there is none, and each would be missed.
        run(programs.bench, "absent", store)
        checked = taking("verify")
    what = f"{units * files:,} entries"
    return [
        row(f"gc, dry, {what}", "s", column(collected, "wall"), 60),
        row(f"gc, dry, {what}", "peak MiB", column(collected, "memory"), 1024),
        row(f"diff of two serials with 3,000 changed projects, {what}", "s", column(compared, "wall"), None),
        row(f"verify of the catalog alone, {what}", "s", column(checked, "wall"), None),
        row(f"verify of the catalog alone, {what}", "peak MiB", column(checked, "memory"), None),
    ]


def verify(program, place, name, runs):
    ours, reference = [], []
    for _ in range(runs):
        sums = f"find {place}/store/blobs -type f -print0 | xargs -0 b3sum --num-threads 2 > /dev/null"
        reference.append(measured("sh", "-c", sums)["wall"])
        ours.append(measured(program, "--quiet", "--config", place / "strandline.toml", "verify", "--data")["wall"])
    # Throughput is the other way round: the same bytes in less time.
    return row(f"verify --data of {name}'s store", "times b3sum's throughput",
               [theirs / own for own, theirs in zip(ours, reference)], -0.8, note="`b3sum --num-threads 2`")


def wrk(url):
    out = run("wrk", "-t2", "-c32", "-d5s", url)
    errors = re.search(r"Socket errors.*|Non-2xx.*", out)
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]), errors[0] if errors else ""


def serve(programs, runs, full):
    program = programs.strandline
    with Image("serve", 200_000, 2 << 30) as place:
        with Index(programs.fake_index, 4, 60, 1_000_000) as index:
            settings = config(place, place / "store", f"{index.url}/simple/")
            measured(program, "--quiet", "--config", settings, "sync")
        return served(program, place, settings, runs)


def served(program, place, settings, runs):
    block = run(program, "--config", settings, "nginx", "--listen", "127.0.0.1:18782")
    (place / "nginx.conf").write_text(
        f"user root; worker_processes 2; pid {place}/nginx.pid; error_log {place}/error.log;\n"
        f"events {{ worker_connections 1024; }}\nhttp {{ access_log off; include /etc/nginx/mime.types; sendfile on;\n{block}\n}}\n")
    nginx = subprocess.Popen(["nginx", "-p", place, "-c", place / "nginx.conf", "-g", "daemon off;"])
    own = subprocess.Popen([program, "--quiet", "--config", settings, "serve", "--listen", "127.0.0.1:18781"])
    rows = []
    try:
        live = place / "store" / "views" / "pypi" / "live"
        project = sorted(path.name for path in (live / "simple").iterdir() if path.is_dir())[0]
        file = next(path for path in sorted((live / "packages").resolve().rglob("*.whl")))
        file = "packages/" + str(file.relative_to((live / "packages").resolve()))
        for _ in range(100):
            try:
                urllib.request.urlopen("http://127.0.0.1:18781/pypi/simple/").read()
                urllib.request.urlopen("http://127.0.0.1:18782/pypi/simple/").read()
                break
            except OSError:
                time.sleep(0.1)
        for what, path in (("pages of 20 KB", f"simple/{project}/"), ("files of 1 MB", file)):
            ours, reference, wrong = [], [], set()
            for _ in range(runs):
                reference.append(wrk(f"http://127.0.0.1:18782/pypi/{path}")[0])
                rate, errors = wrk(f"http://127.0.0.1:18781/pypi/{path}")
                ours.append(rate)
                wrong |= {errors} - {""}
            rows.append(row(f"serve {what}, 32 connections", "requests/s", ours, -0.7, reference,
                            note="nginx; " + (", ".join(wrong) or "0 errors")))
    finally:
        for process in (nginx, own):
            process.terminate()
            process.wait()
    return rows


def disk(store, name):
    block = os.statvfs(store).f_frsize
    seen, blocks, inodes, needed_blocks, needed_inodes = set(), 0, 0, 0, 0
    # The blobs first: the other names of a blob are no inodes.
    parts = sorted(store.iterdir(), key=lambda part: part.name != "blobs")
    for directory, _, files in (step for part in parts for step in os.walk(part)):
        paths = [(pathlib.Path(directory), True)] + [(pathlib.Path(directory) / name, False) for name in files]
        for path, is_directory in paths:
            at = path.lstat()
            if at.st_ino in seen:
                continue
            seen.add(at.st_ino)
            blocks += at.st_blocks * 512
            inodes += 1
            if is_directory and "views" in path.parts or "blobs" in path.parts and not is_directory:
                needed_inodes += 1
                needed_blocks += at.st_blocks * 512 if is_directory else -(-at.st_size // block) * block
    reserve = sum(at.stat().st_blocks * 512 for at in (store / "reserve").iterdir())
    what = f"store of {name}: distinct bytes in blocks, the twins' and the pool's directories"
    note = f"what is needed; {reserve / 1e6:.1f} MB more are the reserve of every store"
    return [
        row(what, "MB", [blocks / 1e6], 1.05, [needed_blocks / 1e6], note=note),
        row(what, "inodes", [inodes], 1.05, [needed_inodes], note="what is needed"),
    ]


MEASURES = {"first-sync": first_sync, "large-files": large_files, "many-files": many_files, "scale": scale, "gc": gc,
            "serve": serve}
