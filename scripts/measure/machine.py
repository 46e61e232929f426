"""Commands that are timed, file systems of their own, and the programs of this version and of another."""

import collections
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / "target" / "bench"
WORLDS = BENCH / "worlds"

Programs = collections.namedtuple("Programs", ["strandline", "bench", "fake_index"])


def run(*command, **options):
    """Runs a command; returns its stdout."""
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, **options).stdout


def measured(*command, **options):
    """Runs a command; returns wall and CPU seconds and the peak of its memory in MiB."""
    begin = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], **options)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command[0]} ended with {process.returncode}: {' '.join(map(str, command))}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss / 1024}


def description():
    """The machine, in a few words."""
    return f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]} {platform.machine()}"


def build(profile="release", checkout=ROOT):
    """Builds the programs of a checkout; returns their paths."""
    # In a target directory of its own, because cargo takes the same crate in two checkouts for one.
    target = checkout / "target"
    if checkout == ROOT:
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", target))
    # The whole workspace, because a part of it has dependencies with other features, and builds them anew.
    run("cargo", "build", "--locked", "--quiet", "--target-dir", target, "--profile", profile, "--workspace", "--bins",
        "--examples", cwd=checkout)
    built = target / {"dev": "debug"}.get(profile, profile)
    return Programs(built / "strandline", built / "strandline-bench", built / "examples" / "fake_index")


def git(*words):
    # The user who measures may be another than the owner of the files: nothing of the repository is run.
    command = ["git", "-c", f"safe.directory={ROOT}", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout


def build_revision(revision):
    """Builds a revision of the repository; returns its hash and its programs."""
    found = git("rev-parse", "--verify", f"{revision}^{{commit}}").decode().strip()
    checkout = BENCH / "versions" / found[:12]
    if not checkout.exists():
        # The files alone, because a worktree would have to be forgotten by git afterwards.
        unpacked = checkout.with_suffix(".unpacked")
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", unpacked], input=git("archive", found), check=True)
        unpacked.rename(checkout)
    return found, build(checkout=checkout)


class Image:
    """A place in a file system of its own that is thrown away whole, where root and loop devices are there to make one: nothing
    was deleted from it before, and what other processes write is not synced with it. Elsewhere a directory, and stderr says so."""

    def __init__(self, name, inodes, size):
        self.place, self.path = WORLDS / name, WORLDS / f"{name}.img"
        self.inodes, self.size = inodes, size
        self.mounted = False

    def __enter__(self):
        if self.place.is_mount():
            run("umount", self.place)
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        self.path.unlink(missing_ok=True)
        with open(self.path, "wb") as image:
            image.truncate(self.size)
        try:
            run("mkfs.ext4", "-q", "-N", self.inodes, self.path)
            run("mount", "-o", "loop", self.path, self.place)
            self.mounted = True
        except (subprocess.CalledProcessError, FileNotFoundError):
            print(f"{self.place.name}: no image of its own", file=sys.stderr)
        return self.place

    def __exit__(self, *_):
        if self.mounted:
            run("umount", self.place)
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.place, ignore_errors=True)
