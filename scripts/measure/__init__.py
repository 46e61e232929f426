"""The parts of scripts/bench, from the bottom up.

  machine    commands that are timed, file systems of their own, programs of this version and of another
  calls      the system calls of a command, counted from outside
  catalog    what SQLite says of a catalog without naming a table of it
  upstreams  the indexes that are mirrored
  worlds     stores of so many projects
  results    the lines that are measured, kept as JSON
  sections   what docs/performance.md shows
  counts     --quick
  against    --against
"""
