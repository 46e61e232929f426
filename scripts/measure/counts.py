"""Counts, in worlds of two sizes, what must not depend on the size."""

import sys

from . import catalog
from .calls import Trace
from .worlds import World

GROWTH = "catalog growth, share of what is allowed"
REQUESTS = "no-op: requests"


def counted(programs, projects):
    """The counts of a sync of 20 changed projects, and of one without anything new."""
    with World(programs, projects) as world:
        world.sync(0)
        world.sync(20)  # fills the second twin
        before = catalog.bytes_used(world.store)
        with Trace() as trace:
            done = world.sync(20, *trace.wrapper)
            counts = {f"publish: {kind}": count for kind, count in trace.kinds().items()}
        counts[GROWTH] = catalog.share_of_allowed_growth(world.store, before, done)
        with world.served_log() as requests:
            world.command("sync")  # what it finds out once
            before = requests()
            with Trace() as trace:
                world.command("sync", wrapper=trace.wrapper)
                counts |= {f"no-op: {kind}": count for kind, count in trace.kinds().items()}
            counts[REQUESTS] = requests() - before
        return counts


def quick(programs):
    """Prints the counts; ends with 1 where one of them grows."""
    small, large = counted(programs, 200), counted(programs, 1600)
    wrong = []
    for name in small:
        print(f"{name}: {small[name]:.6g} at 200 projects, {large[name]:.6g} at 1,600")
        # The root lists are read whole: their rows are what is named separately.
        if name != "publish: reads" and large[name] > 1.5 * small[name] + 10:
            wrong.append(f"{name} grows with the number of projects")
    if large[REQUESTS] != 1:
        wrong.append("a no-op sync does not make one request")
    if large[GROWTH] > 1:
        wrong.append("the catalog grows by more than it may")
    if wrong:
        sys.exit("\n".join(wrong))
