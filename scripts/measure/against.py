"""Another version beside this one: the same steps in turn, before, now, now, before, each version on a file system of its own."""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys

from . import catalog
from .calls import Trace
from .machine import Image, build, build_revision, measured, run
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


def turns(runs):
    """For each turn which version goes first, and whether the turn counts or times. What goes second finds the disk busier, so
    they take it in turn. What is counted hardly differs from turn to turn, and takes many times as long."""
    kinds = [False] * runs + [True] * -(-runs // 3)
    return [(VERSIONS if turn % 2 == 0 else VERSIONS[::-1], counted) for turn, counted in enumerate(kinds)]


def take(compared, version, what, command, store, counted):
    """Takes a step: times a command, or counts what it does."""
    if not counted:
        compared.took(version, what, measured(*command, stdout=subprocess.DEVNULL))
        return
    with Trace() as trace:
        run(*trace.wrapper, *command)
        compared.add(version, what, "count", trace.totals(store))


def first_sync(programs, runs, compared):
    projects, files, size = 2000, 5, 20_000
    what = "first sync, 2,000 projects, 10,000 files, 210 MB"
    inodes, room = projects * (2 * files + 20) * 2 + 200_000, 2 * projects * files * size + (2 << 30)
    with Index(programs["now"].fake_index, projects, files, size) as index:
        for order, counted in turns(runs):
            with both(lambda version: Image(f"first-sync-{version}", inodes, room)) as places:
                for step, words in ((what, ("sync",)), ("verify --data of that store", ("verify", "--data"))):
                    for version in order:
                        place = places[version]
                        store = place / "store"
                        settings = config(place, store, f"{index.url}/simple/")
                        os.sync()
                        command = (programs[version].strandline, "--quiet", "--config", settings, *words)
                        take(compared, version, step, command, store, counted)
                for version, place in places.items() if counted else ():
                    compared.add(version, what, "count", catalog.size(place / "store"))


def publish(world, compared, version, counted):
    """Publishes changed projects. Its time is from the last byte that is fetched to the switch; what is counted is of all of
    strandline-bench, which also looks at what it has done."""
    what = f"publish {CHANGED} changed projects at {world.projects:,}"
    if not counted:
        done = world.sync(CHANGED)
        compared.add(version, what, "time", {"s": done["publish"], "CPU s": done["cpu"]})
        return
    before = catalog.size(world.store)
    with Trace() as trace:
        world.sync(CHANGED, *trace.wrapper)
        compared.add(version, what, "count", trace.totals(world.store))
    grown = {f"more {measure}": size - before[measure] for measure, size in catalog.size(world.store).items()}
    compared.add(version, what, "count", grown)


def world_of(projects):
    """The comparison in worlds of so many projects."""
    steps = {"no-op sync": ("sync",), "gc, dry": ("gc", "--dry-run"), "gc": ("gc",), "verify": ("verify",)}

    def round_of_steps(worlds, compared, order, counted):
        for version in order:
            publish(worlds[version], compared, version, counted)
        with worlds["now"].served_log():
            for step, words in steps.items():
                for version in order:
                    world = worlds[version]
                    command = world.words(*words, keep=NEWEST)
                    take(compared, version, f"{step} at {projects:,}", command, world.store, counted)

    def compare(programs, runs, compared):
        with both(lambda version: World(programs[version], projects, of=version)) as worlds:
            for events in (0, CHANGED):  # the second one fills the second twin
                for world in worlds.values():
                    world.sync(events)
            # What a first round finds out, and drops, it does so once.
            round_of_steps(worlds, Comparison(), VERSIONS, False)
            for order, counted in turns(runs):
                round_of_steps(worlds, compared, order, counted)

    return compare


def gc(programs, runs, compared):
    units, files = 70_000, 20
    entries = f"{units * files:,} entries"
    with both(lambda version: Image(f"gc-{version}", 200_000, 16 << 30)) as places:
        for version, place in places.items():
            run(programs[version].bench, "catalog", place / "store", units, files)
            compared.add(version, f"catalog of {entries}", "count", catalog.size(place / "store"))
        for order, counted in turns(runs):
            for version in order:
                place = places[version]
                store = place / "store"
                settings = config(place, store, "http://127.0.0.1:1/simple/")
                command = (programs[version].strandline, "--quiet", "--config", settings, "gc", "--dry-run")
                take(compared, version, f"gc, dry, {entries}", command, store, counted)


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
    if not shutil.which("strace"):
        sys.exit("there is no strace to count system calls with")
    found, before = build_revision(revision)
    programs, passed = {"before": before, "now": build()}, []
    for name in only or PARTS:
        print(f"== {name}", file=sys.stderr)
        compared = Comparison()
        PARTS[name](programs, runs, compared)
        rows = list(compared.rows.values())
        keep(f"against-{name}", f"scripts/bench --against {revision} --only {name} --runs {runs}", runs, rows, before=found)
        print(f"\n### {name}, {found[:12]} and now, medians of {runs} runs in turn\n")
        print("| what | measure | before | now | ratio | bar | reached |\n|---|---|---|---|---|---|---|")
        for row in (row for row in rows if any(row["before"] + row["now"])):
            print(line(row, bars[row["kind"]]), flush=True)
            if bars[row["kind"]] is not None and ratio(row) > bars[row["kind"]]:
                passed.append(f"{row['what']}, {row['measure']}: {ratio(row):.3f}")
    if passed:
        sys.exit("above the bar:\n" + "\n".join(passed))
