"""Another version beside this one: the same steps in turn, before, now, before, now, each version on a file system of its own."""

import contextlib
import os
import statistics
import subprocess
import sys

from . import catalog
from .calls import Trace
from .machine import Image, measured, run, versions
from .results import keep, number
from .upstreams import Index, config
from .worlds import CHANGED, World

VERSIONS = ("before", "now")
# gc has something to drop after every sync.
NEWEST = "{ last = 1, daily = 0, weekly = 0 }"


class Comparison:
    """What both versions took: for each step and measure the values of both, in the order of the runs."""

    def __init__(self):
        self.rows = {}

    def add(self, version, what, kind, values):
        """Adds the values of one run: times (`kind` is `time`) or counts (`count`), by measure."""
        for measure, value in values.items():
            row = {"what": what, "measure": measure, "kind": kind, "before": [], "now": []}
            self.rows.setdefault((what, measure), row)[version].append(value)

    def took(self, version, what, usage):
        self.add(version, what, "time", {"wall s": usage["wall"], "CPU s": usage["cpu"]})


@contextlib.contextmanager
def both(make):
    """Enters what `make` makes for each version."""
    with contextlib.ExitStack() as stack:
        yield {version: stack.enter_context(make(version)) for version in VERSIONS}


def first_sync(programs, runs, compared):
    projects, files, size = 2000, 5, 20_000
    what, checked = "first sync, 2,000 projects, 10,000 files, 210 MB", "verify --data of that store"
    inodes, room = projects * (2 * files + 20) * 2 + 200_000, 2 * projects * files * size + (2 << 30)
    with Index(programs["now"].fake_index, projects, files, size) as index:
        for number_of_run in range(2 * runs):
            with both(lambda version: Image(f"first-sync-{version}", inodes, room)) as places:
                command = {
                    version: (programs[version].strandline, "--quiet", "--config",
                              config(place, place / "store", f"{index.url}/simple/"))
                    for version, place in places.items()
                }
                for step, words in ((what, ("sync",)), (checked, ("verify", "--data"))):
                    for version in VERSIONS:
                        os.sync()
                        if number_of_run < runs:
                            usage = measured(*command[version], *words, stdout=subprocess.DEVNULL)
                            compared.took(version, step, usage)
                        else:
                            with Trace() as trace:
                                run(*trace.wrapper, *command[version], *words)
                                compared.add(version, step, "count", trace.totals(places[version] / "store"))
                for version, place in places.items() if number_of_run >= runs else ():
                    size_of = {"rows in the catalog": catalog.rows(place / "store"),
                               "bytes in the catalog": catalog.bytes_used(place / "store")}
                    compared.add(version, what, "count", size_of)


def publish(world, compared, version, trace=None):
    """Publishes changed projects; with a trace, counts what that takes instead of timing it."""
    what = f"publish {CHANGED} changed projects at {world.projects:,}"
    if not trace:
        done = world.sync(CHANGED)
        compared.add(version, what, "time", {"s": done["publish"], "CPU s": done["cpu"]})
        return
    measures = {"rows more in the catalog": catalog.rows, "bytes more in the catalog": catalog.bytes_used}
    before = {measure: ask(world.store) for measure, ask in measures.items()}
    world.sync(CHANGED, *trace.wrapper)
    compared.add(version, what, "count", trace.totals(world.store))
    compared.add(version, what, "count", {measure: ask(world.store) - before[measure] for measure, ask in measures.items()})


def world_of(projects):
    """Compares in worlds of so many projects."""
    steps = {"no-op sync": ("sync",), "gc, dry": ("gc", "--dry-run"), "gc": ("gc",), "verify": ("verify",)}

    def compare(programs, runs, compared):
        with both(lambda version: World(programs[version], projects, of=version)) as worlds:
            for events in (0, CHANGED):  # the second one fills the second twin
                for world in worlds.values():
                    world.sync(events)
            for number_of_run in range(-1, 2 * runs):
                counted = number_of_run >= runs
                # What is found out or dropped once counts for nothing.
                into = compared if number_of_run >= 0 else Comparison()
                for version, world in worlds.items():
                    with Trace() if counted else contextlib.nullcontext() as trace:
                        publish(world, into, version, trace)
                with worlds["now"].served_log() as requests:
                    for step, words in steps.items():
                        for version, world in worlds.items():
                            one_step(world, into, version, f"{step} at {projects:,}", words, counted, requests)

    return compare


def one_step(world, compared, version, what, words, counted, requests):
    if not counted:
        compared.took(version, what, world.command(*words, keep=NEWEST))
        return
    before = requests()
    with Trace() as trace:
        world.command(*words, keep=NEWEST, wrapper=trace.wrapper)
        # Requests are what upstream says they are.
        totals = trace.totals(world.store) | {"requests": requests() - before}
        compared.add(version, what, "count", totals)


def gc(programs, runs, compared):
    units, files = 70_000, 20
    what = f"gc, dry, {units * files:,} entries"
    with both(lambda version: Image(f"gc-{version}", 200_000, 16 << 30)) as places:
        for version, place in places.items():
            run(programs[version].bench, "catalog", place / "store", units, files)
        for _ in range(runs):
            for version, place in places.items():
                settings = config(place, place / "store", "http://127.0.0.1:1/simple/")
                command = (programs[version].strandline, "--quiet", "--config", settings, "gc", "--dry-run")
                compared.took(version, what, measured(*command, stdout=subprocess.DEVNULL))
        sizes = lambda store: {"rows in the catalog": catalog.rows(store), "bytes in the catalog": catalog.bytes_used(store)}
        for version, place in places.items():
            compared.add(version, f"catalog of {units * files:,} entries", "count", sizes(place / "store"))


PARTS = {"first-sync": first_sync, "scale-7000": world_of(7_000), "scale-70000": world_of(70_000), "gc": gc}


def ratio(row):
    before, now = (statistics.median(row[version]) for version in VERSIONS)
    return now / before if before else 1.0 if now == before else float("inf")


def line(row, bar):
    reached = "–" if bar is None else "yes" if ratio(row) <= bar else "**no**"
    before, now = (number(statistics.median(row[version])) for version in VERSIONS)
    limit = "–" if bar is None else f"≤ {bar:g}"
    return f"| {row['what']} | {row['measure']} | {before} | {now} | {ratio(row):.3f} | {limit} | {reached} |"


def against(revision, only, runs, bars):
    """Compares in the parts that are asked for, keeps and prints what comes out, and ends with 1 where a ratio of medians is above
    the bar of its kind."""
    found, *built = versions(revision)
    programs, passed = dict(zip(VERSIONS, built)), []
    for name in only or PARTS:
        print(f"== {name}", file=sys.stderr)
        compared = Comparison()
        PARTS[name](programs, runs, compared)
        rows = list(compared.rows.values())
        keep(f"against-{name}", f"scripts/bench --against {revision} --only {name} --runs {runs}", runs, rows, before=found)
        print(f"\n### {name}, {found[:12]} and now, medians of {runs} runs in turn\n")
        print("| what | measure | before | now | ratio | bar | reached |\n|---|---|---|---|---|---|---|")
        for row in rows:
            print(line(row, bars[row["kind"]]), flush=True)
            if bars[row["kind"]] is not None and ratio(row) > bars[row["kind"]]:
                passed.append(f"{row['what']}, {row['measure']}: {ratio(row):.3f}")
    if passed:
        sys.exit("above the bar:\n" + "\n".join(passed))
