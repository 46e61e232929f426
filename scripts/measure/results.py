"""What was measured: the lines of a table, kept in target/bench/SECTION.json."""

import json
import statistics

from .machine import BENCH, description

NAMES = ("first-sync", "large-files", "many-files", "scale", "gc", "serve")
LARGER = ("scale", "gc")  # with --full, kept beside what is measured without it


def row(what, measure, ours, bar, reference=None, note=""):
    """One line of the table: `bar` is an upper bound like 1.5, or a lower one as a negative number, or nothing."""
    return {"what": what, "measure": measure, "ours": ours, "reference": reference, "bar": bar, "note": note}


def column(results, key):
    return [result[key] for result in results]


def keep(name, command, runs, rows, **more):
    result = {"command": command, "machine": description(), "runs": runs, "rows": rows, **more}
    (BENCH / f"{name}.json").write_text(json.dumps(result, indent=1))


def kept():
    """Every section that was measured, in the order of the page, with its name."""
    for name in [kept for name in NAMES for kept in (name, f"{name}-full")]:
        path = BENCH / f"{name}.json"
        if path.exists():
            yield name, json.loads(path.read_text())


def number(value):
    return ("{:,.0f}" if abs(value) >= 100 else "{:.3g}").format(value)


def cell(values):
    form = "{:,.0f}" if min(map(abs, values)) >= 100 else "{:.3g}"
    return " / ".join(form.format(value) for value in (min(values), statistics.median(values), max(values)))


def line(result):
    """A line of the table, as Markdown."""
    ours, reference, bar = result["ours"], result["reference"], result["bar"]
    compared = [own / max(other, 1e-9) for own, other in zip(ours, reference)] if reference else ours
    middle = statistics.median(compared)
    if bar is None:
        limit, reached = "–", "–"
    else:
        limit = f"≥ {-bar:g}" if bar < 0 else f"≤ {bar:g}"
        reached = "yes" if (middle >= -bar if bar < 0 else middle <= bar) else "**no**"
    other = f"{cell(reference)} ({result['note']})" if reference else result["note"] or "–"
    ratio = cell(compared) if reference else "–"
    return f"| {result['what']} | {result['measure']} | {cell(ours)} | {other} | {ratio} | {limit} | {reached} |"
