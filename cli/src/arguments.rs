//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use strandline_model::{Blake3, DisplayName, MirrorName};

/// Where `serve` and `up` listen unless told otherwise: loopback.
const LISTEN: &str = "127.0.0.1:8780";

/// A mirror of package indexes that is never halfway.
///
/// Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 nothing published, because upstream was not consistent (readers
/// see what they saw before); 4 published, with held projects.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// The configuration; by default ./strandline.toml, then /etc/strandline/strandline.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The store, instead of the one that the configuration names
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice for every request
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How often a sync says how far it is, if stderr is not a terminal
    #[arg(long, global = true, hide = true, default_value = "10s", value_name = "DURATION", value_parser = positive)]
    pub(crate) progress_every: std::time::Duration,
    #[command(subcommand)]
    pub(crate) command: Command,
}

fn positive(text: &str) -> Result<std::time::Duration, String> {
    let crate::config::Seconds(time) = text.parse()?;
    if time.is_zero() { Err("expected a time longer than 0s".to_owned()) } else { Ok(time) }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sync every mirror, serve them, and keep syncing until Ctrl-C; writes strandline.toml first if there is none
    Up {
        /// The projects to mirror, if there is no configuration yet
        projects: Vec<DisplayName>,
        /// Where to listen
        #[arg(long, default_value = LISTEN, value_name = "ADDRESS:PORT")]
        listen: SocketAddr,
        /// How long to wait between syncs, such as 5m or 1h
        #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = positive)]
        every: std::time::Duration,
    },
    /// Write a commented strandline.toml
    Init {
        /// The mirror's name
        #[arg(long, default_value = "pypi", value_name = "NAME")]
        mirror: MirrorName,
        /// The index to mirror; by default the one that pip uses
        #[arg(long, value_name = "URL")]
        upstream: Option<crate::config::HttpUrl>,
        /// A project to mirror; may be given several times; without any, the mirror has everything
        #[arg(long = "project", value_name = "PROJECT")]
        projects: Vec<DisplayName>,
    },
    /// Sync once; safe to run from cron
    Sync {
        /// The mirrors; all if none is named
        mirrors: Vec<MirrorName>,
        /// Wait while another process has the mirror, instead of failing
        #[arg(long)]
        wait: bool,
        /// Let go what vanished, also more than `max-drop` projects
        #[arg(long)]
        accept_drop: bool,
    },
    /// Serve all mirrors over HTTP, at every serial that is kept
    Serve {
        /// Where to listen
        #[arg(long, default_value = LISTEN, value_name = "ADDRESS:PORT")]
        listen: SocketAddr,
    },
    /// Say how the mirrors stand
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List the serials of a mirror that are kept
    Log {
        /// The mirror
        mirror: MirrorName,
        /// As JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// List the projects and files that differ between two serials, or what upstream told two mirrors differently
    ///
    /// `diff MIRROR A B` compares two serials of a mirror. `diff MIRROR@A OTHER@B` says whether upstream told both the same, and
    /// of which projects not; it ends with 1 if that is an alarm.
    Diff {
        /// The mirror, or a mirror at a serial: MIRROR@SERIAL
        mirror: String,
        /// A serial, a serial with revision, or a date; or another mirror at a serial
        before: String,
        /// The one to compare it with, in the same form as the first; left out where two mirrors are compared
        after: Option<String>,
        /// As JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// Show what a mirror has of a project, or the canonical bytes of an id
    Show {
        /// The mirror, optionally at a serial: MIRROR or MIRROR@SERIAL
        #[arg(required_unless_present = "raw")]
        mirror: Option<String>,
        /// The project; without it, the snapshot is shown
        project: Option<DisplayName>,
        /// Print the canonical bytes of a snapshot or of anything that it names by an id, for b3sum
        #[arg(long, value_name = "ID", conflicts_with_all = ["mirror", "project"])]
        raw: Option<Blake3>,
    },
    /// Publish an earlier serial; syncs go on recording, but do not publish until --resume
    Rollback {
        /// The mirror
        mirror: MirrorName,
        /// A serial, a serial with revision, a date, or `previous` for the snapshot that was published before
        #[arg(required_unless_present = "resume")]
        serial: Option<String>,
        /// Publish the newest serial again, and let syncs publish
        #[arg(long, conflicts_with = "serial")]
        resume: bool,
    },
    /// Keep a serial, whatever retention says
    Pin {
        /// The mirror
        mirror: MirrorName,
        /// A serial, a serial with revision, or a date
        serial: String,
    },
    /// Leave a pinned serial to retention again
    Unpin {
        /// The mirror
        mirror: MirrorName,
        /// A serial, a serial with revision, or a date
        serial: String,
    },
    /// Change mirrors as a whole
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// Check manifests, blobs and links
    Verify {
        /// The mirror; all if none is named
        mirror: Option<MirrorName>,
        /// Re-hash every blob, the least recently checked first; goes on where the last check was interrupted
        #[arg(long)]
        data: bool,
        /// Skip blobs that were re-hashed more recently than this, such as 30d
        #[arg(long, requires = "data", value_name = "DURATION")]
        max_age: Option<crate::config::Seconds>,
        /// Re-hash only this share of the blobs, the least recently checked, such as 5%
        #[arg(long, requires = "data", value_name = "SHARE")]
        sample: Option<crate::config::Share>,
        /// Read at most this much in a second, such as 100MiB
        #[arg(long, requires = "data", value_name = "SIZE")]
        limit: Option<crate::config::Bytes>,
        /// Begin anew, even if the last check was interrupted
        #[arg(long, requires = "data")]
        restart: bool,
        /// Repair damage: fetch lost blobs again and mend the view; broken files are moved aside
        #[arg(long)]
        repair: bool,
    },
    /// Make all pages of a mirror's newest serial anew, as this version of the program makes them, without asking upstream
    Render {
        /// The mirror
        mirror: MirrorName,
    },
    /// Make a new catalog from what is published, if the old one is lost and there is no backup of it
    Rebuild,
    /// Drop the snapshots that retention does not keep, and delete the blobs that nothing names any more
    Gc {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Take over the files that bandersnatch or shadowmire has mirrored, without downloading them again
    ///
    /// Files are cloned where the file system can, else linked, else copied. A linked file belongs to the store from then on,
    /// with another mode and time, so the other program must not work on the directory any more.
    Adopt {
        /// The mirror that takes them
        mirror: MirrorName,
        /// Where they are: bandersnatch's directory, its `web`, or shadowmire's repository
        directory: PathBuf,
        /// Leave that directory exactly as it is: copy the files that cannot be cloned
        #[arg(long)]
        copy: bool,
        /// As JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// Withdraw a file now, from every snapshot that is kept; it is not fetched again until --undo
    Purge {
        /// The SHA-256 of a file, or PROJECT==VERSION for all files of a release
        #[arg(required_unless_present = "list", value_name = "SHA256|PROJECT==VERSION")]
        what: Option<crate::commands::purge::What>,
        /// From this mirror only
        #[arg(long, value_name = "NAME")]
        mirror: Option<MirrorName>,
        /// Why; `purge --list` shows it
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Let it back: the next sync brings it
        #[arg(long)]
        undo: bool,
        /// List the files that were withdrawn and let back, by whom, when and why
        #[arg(long, conflicts_with_all = ["what", "mirror", "reason", "undo"])]
        list: bool,
        /// As JSON, one object a line
        #[arg(long, requires = "list")]
        json: bool,
    },
    /// Print a configuration with which nginx serves the mirrors
    Nginx {
        /// What nginx listens on
        #[arg(long, default_value = "80", value_name = "ADDRESS:PORT")]
        listen: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MirrorCommand {
    /// Follow upstream anew from the next sync on, where it was set up anew, restored, or gives other serials; every kept serial
    /// and file stays
    Reset {
        /// The mirror
        name: MirrorName,
    },
    /// Say that a mirror's upstream has moved to another address; the next sync goes on from there, and every kept serial stays
    Move {
        /// The mirror
        name: MirrorName,
        /// Where the same index is now, as the configuration says it, too
        #[arg(value_name = "URL")]
        upstream: crate::config::HttpUrl,
    },
    /// Remove a mirror from the store, with its view and everything it keeps; gc then frees what no other mirror has
    Remove {
        /// The mirror
        name: MirrorName,
    },
}
