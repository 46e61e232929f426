//! The catalog's tables.
//!
//! Version 10 is the oldest that this program reads: nothing was released before it, and an older catalog is refused. From 10 on,
//! migrations are append-only and keyed by `user_version`: the first one makes version 10, each later one the version after it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use strandline_durable::Disk;

use crate::StoreError;

/// "strd": marks the file as one of ours.
const APPLICATION_ID: i32 = 0x7374_7264;

/// The version that the first migration makes.
const OLDEST: i32 = 10;

const MIGRATIONS: &[&str] = &["
    -- The next time of modification to give to a file, in seconds since 1970. nginx makes its entity tags from
    -- that time and the size, so no two files of a store ever have the same time.
    CREATE TABLE next_mtime (value INTEGER NOT NULL);
    INSERT INTO next_mtime VALUES (1000000000);

    -- Numbers the beginnings of syncs and of collections, so that it is known which came first, whatever the clock says.
    CREATE TABLE sequence (value INTEGER NOT NULL);
    INSERT INTO sequence VALUES (0);

    -- A mirror has its row from its first lock on; `upstream` is known from its first snapshot on. Every other table knows it by
    -- its number, which no later mirror gets, and loses its rows together with this one.
    CREATE TABLE mirror (
        id       INTEGER PRIMARY KEY AUTOINCREMENT,
        name     TEXT NOT NULL UNIQUE,
        upstream TEXT,
        -- 1 from the decision on that it goes, until nothing is left of it on the disk.
        removing INTEGER NOT NULL DEFAULT 0,
        -- Of all blobs that its snapshots name, and of those that no other mirror's name, in bytes; gc finds out.
        bytes    INTEGER,
        own      INTEGER
    ) STRICT;

    -- condemned: when gc found that nothing names the blob, and with which number of the sequence. deleting: its file may be
    -- gone already. public: a mirror that is not private has brought these bytes.
    CREATE TABLE blob (
        blake3    BLOB PRIMARY KEY CHECK (length(blake3) = 32),
        sha256    BLOB NOT NULL CHECK (length(sha256) = 32),
        size      INTEGER NOT NULL CHECK (size >= 0),
        mtime     INTEGER NOT NULL,
        public    INTEGER NOT NULL,
        condemned INTEGER,
        condemned_in INTEGER,
        deleting  INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX blob_sha256 ON blob (sha256);
    CREATE INDEX blob_condemned ON blob (condemned) WHERE condemned IS NOT NULL;
    CREATE TRIGGER blob_is_immutable BEFORE UPDATE OF blake3, sha256, size, mtime ON blob
        BEGIN SELECT RAISE(ABORT, 'a blob never changes'); END;
    CREATE TRIGGER blob_is_not_replaced BEFORE INSERT ON blob
        WHEN EXISTS (SELECT 1 FROM blob WHERE blake3 = NEW.blake3)
        BEGIN SELECT RAISE(ABORT, 'a blob never changes'); END;

    -- Which private mirrors have brought a blob.
    CREATE TABLE private_blob (
        blake3 BLOB NOT NULL,
        mirror INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        PRIMARY KEY (blake3, mirror)
    ) STRICT, WITHOUT ROWID;

    -- The mirrors for which a process takes blobs in, and since which number of the sequence: gc does not delete what that process
    -- may have found. A row whose lock is free is that of a process that died.
    CREATE TABLE intake (
        mirror INTEGER PRIMARY KEY REFERENCES mirror (id) ON DELETE CASCADE,
        began  INTEGER NOT NULL
    ) STRICT;

    -- Blobs whose files are being put in their places: what a crash leaves of them has no row in `blob`.
    CREATE TABLE arriving (
        mirror INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        blake3 BLOB NOT NULL,
        PRIMARY KEY (mirror, blake3)
    ) STRICT, WITHOUT ROWID;

    -- When the bytes of a blob were last read and found right, and with which number of the sequence that check began. A blob that
    -- comes in again loses its row, because its new bytes were not read yet.
    CREATE TABLE checked (
        blake3 BLOB PRIMARY KEY REFERENCES blob (blake3) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        time   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX checked_number ON checked (number);

    -- Checks of all data that have not come to their end: with which number of the sequence, since when, and of which mirrors.
    CREATE TABLE data_check (
        number INTEGER PRIMARY KEY,
        began  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE data_check_mirror (
        number INTEGER NOT NULL REFERENCES data_check (number) ON DELETE CASCADE,
        mirror INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        PRIMARY KEY (number, mirror)
    ) STRICT, WITHOUT ROWID;

    -- The canonical bytes of records, units, nodes, snapshots and what those name: some that are written and read together, packed as one by zstd.
    -- reference: the pack against whose bytes this one is packed; that one has none. sizes: how long the bodies are (packs.rs).
    -- With a row number: in a table without, what is larger than a quarter of a page takes another page whole.
    --
    -- No foreign keys: SQLite would look through all rows for one that refers to a pack that goes, or need indexes, which take a
    -- third of the rows' own room. What refers to a pack finds it when it is written, and gc deletes packs, and knows which are needed.
    CREATE TABLE pack (
        number    INTEGER PRIMARY KEY,
        reference INTEGER,
        sizes     BLOB NOT NULL,
        packed    BLOB NOT NULL
    ) STRICT;
    CREATE TRIGGER pack_is_immutable BEFORE UPDATE ON pack
        BEGIN SELECT RAISE(ABORT, 'a pack never changes'); END;
    CREATE TRIGGER pack_is_not_replaced BEFORE INSERT ON pack
        WHEN EXISTS (SELECT 1 FROM pack WHERE number = NEW.number)
        BEGIN SELECT RAISE(ABORT, 'a pack never changes'); END;
    CREATE TRIGGER pack_has_its_reference BEFORE INSERT ON pack
        WHEN NEW.reference IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM pack WHERE number = NEW.reference AND reference IS NULL)
        BEGIN SELECT RAISE(ABORT, 'a reference is a pack without one'); END;

    -- Where each body is, by the BLAKE3 of its bytes: in which pack, and the how manyth of it from 0 on.
    CREATE TABLE body (
        id       BLOB PRIMARY KEY CHECK (length(id) = 32),
        pack     INTEGER NOT NULL,
        position INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER body_is_immutable BEFORE UPDATE ON body
        BEGIN SELECT RAISE(ABORT, 'a body never changes'); END;
    CREATE TRIGGER body_is_not_replaced BEFORE INSERT ON body
        WHEN EXISTS (SELECT 1 FROM body WHERE id = NEW.id)
        BEGIN SELECT RAISE(ABORT, 'a body never changes'); END;
    CREATE TRIGGER body_has_its_pack BEFORE INSERT ON body
        WHEN NOT EXISTS (SELECT 1 FROM pack WHERE number = NEW.pack)
        BEGIN SELECT RAISE(ABORT, 'a body is in a pack'); END;

    CREATE TABLE snapshot (
        id       BLOB PRIMARY KEY REFERENCES body (id),
        mirror   INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        serial   INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        time     INTEGER NOT NULL,
        verified INTEGER NOT NULL DEFAULT 0,
        -- 1 when an event at or before the serial came to light after the snapshot was made.
        missed   INTEGER NOT NULL DEFAULT 0,
        UNIQUE (mirror, serial, revision)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER snapshot_is_immutable BEFORE UPDATE OF id, mirror, serial, revision, time ON snapshot
        BEGIN SELECT RAISE(ABORT, 'a snapshot never changes'); END;
    CREATE TRIGGER snapshot_is_not_replaced BEFORE INSERT ON snapshot
        WHEN EXISTS (SELECT 1 FROM snapshot WHERE id = NEW.id
            OR (mirror = NEW.mirror AND serial = NEW.serial AND revision = NEW.revision))
        BEGIN SELECT RAISE(ABORT, 'a snapshot never changes'); END;

    -- Snapshots that are not served any more, because a revision of the same serial without what was withdrawn is: they are kept
    -- as long as that one is, and only as the record of what there was. Their blobs may be gone.
    CREATE TABLE superseded (
        snapshot    BLOB PRIMARY KEY REFERENCES snapshot (id) ON DELETE CASCADE,
        replacement BLOB NOT NULL REFERENCES snapshot (id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX superseded_replacement ON superseded (replacement);

    -- Snapshots that stay, whatever retention says.
    CREATE TABLE pin (
        snapshot BLOB PRIMARY KEY REFERENCES snapshot (id) ON DELETE CASCADE,
        time     INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- What the root lists of a mirror's newest tree name, in the order of names: it can be made anew from the tree. `sum` is over all its
    -- rows, `display` is only there where it is not the name itself.
    CREATE TABLE listing (
        mirror INTEGER PRIMARY KEY REFERENCES mirror (id) ON DELETE CASCADE,
        tree   BLOB NOT NULL,
        sum    BLOB NOT NULL,
        units  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE listed (
        mirror  INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        name    TEXT NOT NULL,
        serial  INTEGER NOT NULL,
        display TEXT,
        PRIMARY KEY (mirror, name)
    ) STRICT, WITHOUT ROWID;

    -- What `live` points to, and since when. frozen: an operator rolled back, so syncs do not publish.
    CREATE TABLE view (
        mirror   INTEGER PRIMARY KEY REFERENCES mirror (id) ON DELETE CASCADE,
        slot     TEXT NOT NULL CHECK (slot IN ('a', 'b')),
        snapshot BLOB NOT NULL REFERENCES snapshot (id),
        previous BLOB REFERENCES snapshot (id),
        switched INTEGER NOT NULL,
        frozen   INTEGER NOT NULL DEFAULT 0
    ) STRICT;

    -- What a twin holds: `base`, or while it is being changed anything between `base` and `target`.
    CREATE TABLE twin (
        mirror INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        slot   TEXT NOT NULL CHECK (slot IN ('a', 'b')),
        base   BLOB REFERENCES snapshot (id),
        target BLOB REFERENCES snapshot (id),
        PRIMARY KEY (mirror, slot)
    ) STRICT, WITHOUT ROWID;

    -- Paths of the pool that no retained snapshot names any more, and since when.
    CREATE TABLE pool_leaving (
        mirror INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        path   TEXT NOT NULL,
        since  INTEGER NOT NULL,
        PRIMARY KEY (mirror, path)
    ) STRICT, WITHOUT ROWID;

    -- The bytes of all blobs, as gc found them.
    CREATE TABLE usage (
        one   INTEGER PRIMARY KEY CHECK (one = 1),
        bytes INTEGER NOT NULL,
        time  INTEGER NOT NULL
    ) STRICT;

    -- How the last sync of a mirror ended, for `status`.
    CREATE TABLE last_sync (
        mirror  INTEGER PRIMARY KEY REFERENCES mirror (id) ON DELETE CASCADE,
        time    INTEGER NOT NULL,
        failure TEXT,
        -- Of the last cut by changelog: the log's head, since when the oldest event is missing, and how many rounds.
        head    INTEGER,
        behind  INTEGER,
        rounds  INTEGER
    ) STRICT;

    -- Pages that were fetched and that no snapshot shows yet, in the order in which they came: what an interrupted first
    -- sync has, and what a cut could not take yet. `serial` is that of the page which the unit shows, `tag` its entity tag.
    CREATE TABLE seen (
        number  INTEGER PRIMARY KEY,
        mirror  INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        project TEXT NOT NULL,
        unit    BLOB NOT NULL,
        -- The record that the unit shows, and whether root lists would name the project.
        told    BLOB NOT NULL,
        seen    BLOB NOT NULL,
        listed  INTEGER NOT NULL,
        serial  INTEGER NOT NULL,
        tag     TEXT,
        UNIQUE (mirror, project, unit)
    ) STRICT;

    -- A cache that may be lost: with what to ask upstream whether a page is still the one that `unit` shows.
    CREATE TABLE validator (
        mirror  INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        project TEXT NOT NULL,
        unit    BLOB NOT NULL,
        tag     TEXT NOT NULL,
        PRIMARY KEY (mirror, project)
    ) STRICT, WITHOUT ROWID;

    -- Since when a project has stood in the way of a sync, where the changelog does not say it.
    CREATE TABLE trouble (
        mirror  INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        project TEXT NOT NULL,
        since   INTEGER NOT NULL,
        PRIMARY KEY (mirror, project)
    ) STRICT, WITHOUT ROWID;

    -- When a project last changed without an event that says so, where that is known: of those that the newest tree says are
    -- unlogged, all but those that a rebuild read back.
    CREATE TABLE unlogged (
        mirror  INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        project TEXT NOT NULL,
        since   INTEGER NOT NULL,
        PRIMARY KEY (mirror, project)
    ) STRICT, WITHOUT ROWID;

    -- How far the slow sweep over all pages is: up to and including a project, and since when it stands there.
    CREATE TABLE sweep (
        mirror  INTEGER PRIMARY KEY REFERENCES mirror (id) ON DELETE CASCADE,
        project TEXT NOT NULL,
        time    INTEGER NOT NULL
    ) STRICT;

    -- Serials up to that of the newest snapshot that upstream's log had not shown when it was made: an event that comes to
    -- light with one of them is one that snapshots lack.
    CREATE TABLE missing_serial (
        mirror INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        serial INTEGER NOT NULL,
        PRIMARY KEY (mirror, serial)
    ) STRICT, WITHOUT ROWID;

    -- Projects as another program's tree had them, whose files were taken over: a unit names what gc leaves alone until a
    -- snapshot shows the project, or does not.
    CREATE TABLE adopted (
        mirror  INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        project TEXT NOT NULL,
        unit    BLOB NOT NULL,
        PRIMARY KEY (mirror, project, unit)
    ) STRICT, WITHOUT ROWID;

    -- What was withdrawn from a mirror (from all where it names none), and what was let back: rows are only ever added, and
    -- the newest one about a file decides. A mirror is named here as the operator named it: the record outlives the mirror, so that
    -- what was withdrawn stays withdrawn should a mirror of that name come back.
    CREATE TABLE withdrawal (
        number   INTEGER PRIMARY KEY,
        mirror   TEXT,
        sha256   BLOB NOT NULL CHECK (length(sha256) = 32),
        undone   INTEGER NOT NULL,
        project  TEXT,
        filename TEXT,
        time     INTEGER NOT NULL,
        who      TEXT NOT NULL,
        reason   TEXT
    ) STRICT;
    CREATE INDEX withdrawal_sha256 ON withdrawal (sha256);
    CREATE TRIGGER withdrawal_is_immutable BEFORE UPDATE ON withdrawal
        BEGIN SELECT RAISE(ABORT, 'the record of withdrawals is only added to'); END;
    CREATE TRIGGER withdrawal_is_not_deleted BEFORE DELETE ON withdrawal
        BEGIN SELECT RAISE(ABORT, 'the record of withdrawals is only added to'); END;
    CREATE TRIGGER withdrawal_is_not_replaced BEFORE INSERT ON withdrawal
        WHEN EXISTS (SELECT 1 FROM withdrawal WHERE number = NEW.number)
        BEGIN SELECT RAISE(ABORT, 'the record of withdrawals is only added to'); END;

    -- The mirrors from which something is still to be withdrawn; and a row while bytes of it are still to be deleted. Because of these,
    -- what a crash interrupts is finished.
    CREATE TABLE purging (mirror INTEGER PRIMARY KEY REFERENCES mirror (id) ON DELETE CASCADE) STRICT;
    CREATE TABLE purging_bytes (one INTEGER PRIMARY KEY CHECK (one = 1)) STRICT;

    -- The projects whose pages lack a file because it is withdrawn, and those that the next sync has to read again because
    -- one was let back.
    CREATE TABLE left_out (
        mirror  INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        project TEXT NOT NULL,
        sha256  BLOB NOT NULL,
        PRIMARY KEY (mirror, project, sha256)
    ) STRICT, WITHOUT ROWID;
    -- What the page of a project that was read last says and this program does not use. kind: 0 where the text is the JSON pointer of
    -- a key that is not known, 1 where it says what cannot be used, 2 where it says of how much that is so.
    CREATE TABLE remark (
        mirror  INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        project TEXT NOT NULL,
        kind    INTEGER NOT NULL,
        text    TEXT NOT NULL,
        PRIMARY KEY (mirror, project, kind, text)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE reread (
        mirror  INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        project TEXT NOT NULL,
        PRIMARY KEY (mirror, project)
    ) STRICT, WITHOUT ROWID;
", "
    -- What a mirror has seen and does not act on before it has seen the same for some time. kind and key: what is looked at
    -- (sights.rs). what: the BLAKE3 of what was seen; of no bytes where there is only one thing to see. first and last: when it was.
    CREATE TABLE sight (
        mirror INTEGER NOT NULL REFERENCES mirror (id) ON DELETE CASCADE,
        kind   INTEGER NOT NULL,
        key    TEXT NOT NULL,
        what   BLOB NOT NULL CHECK (length(what) = 32),
        first  INTEGER NOT NULL,
        last   INTEGER NOT NULL,
        PRIMARY KEY (mirror, kind, key)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO sight
        SELECT mirror, 0, project, x'af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262', since, since FROM trouble;
    DROP TABLE trouble;

    -- number: which snapshots of a mirror were recorded later; the revisions of one have its number. counted: 1 where the serial is the
    -- mirror's own count of what changed, and no number of upstream's.
    ALTER TABLE snapshot ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE snapshot ADD COLUMN counted INTEGER NOT NULL DEFAULT 0;
    UPDATE snapshot SET number =
        (SELECT count(DISTINCT earlier.serial) FROM snapshot earlier WHERE earlier.mirror = snapshot.mirror AND earlier.serial <= snapshot.serial);
    CREATE INDEX snapshot_number ON snapshot (mirror, number, revision);
    DROP TRIGGER snapshot_is_immutable;
    CREATE TRIGGER snapshot_is_immutable BEFORE UPDATE OF id, mirror, serial, revision, time, number, counted ON snapshot
        BEGIN SELECT RAISE(ABORT, 'a snapshot never changes'); END;

    -- 1 from `mirror reset` on, until a snapshot shows what upstream says now of every project.
    ALTER TABLE mirror ADD COLUMN anew INTEGER NOT NULL DEFAULT 0;
"];

/// The version that the last migration makes.
fn latest() -> i32 {
    OLDEST - 1 + i32::try_from(MIGRATIONS.len()).expect("there are few migrations")
}

/// Refuses a catalog of a version before the oldest that is read, by the header of its file, so that not even SQLite touches it
/// (<https://sqlite.org/fileformat.html>, section 1.3: the version at byte 60, the application at byte 68).
pub(crate) fn refuse_older(path: &Path) -> Result<(), StoreError> {
    let mut header = [0; 100];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    // A file that is missing, or shorter, is no database yet.
    if read.is_err() || !header.starts_with(b"SQLite format 3\0") {
        return Ok(());
    }
    let number = |at: usize| {
        let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
        i32::from_be_bytes(bytes)
    };
    match number(60) {
        version @ 1..OLDEST if number(68) == APPLICATION_ID => {
            Err(StoreError::Older { path: path.to_owned(), version, oldest: OLDEST })
        }
        _ => Ok(()),
    }
}

/// How many migrations were done. An error where the file is not a catalog of ours, or of a version that is not read.
fn done(connection: &Connection, path: &Path, occupied: bool) -> Result<usize, StoreError> {
    let sql = |source| StoreError::Catalog { path: path.to_owned(), source };
    let foreign = |problem: String| StoreError::Foreign { path: path.to_owned(), problem };
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(sql);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sql)?;
    if tables == 0 && occupied {
        return Err(StoreError::NoCatalog { path: path.to_owned(), found: "empty" });
    }
    if tables > 0 && number("application_id")? != APPLICATION_ID {
        return Err(foreign("is another program's database".to_owned()));
    }
    let (version, latest) = (number("user_version")?, latest());
    match version {
        0 => Ok(0),
        1..OLDEST => Err(StoreError::Older { path: path.to_owned(), version, oldest: OLDEST }),
        _ if version > latest => Err(foreign(format!(
            "has version {version}, and this program knows versions up to {latest}: use the program that wrote it, or a newer one"
        ))),
        _ => usize::try_from(version - OLDEST + 1).map_err(|_| foreign(format!("has the unknown version {version}"))),
    }
}

/// Opens the catalog, and makes it if there is none. One without a table is refused where the store is `occupied`: it is
/// what is left of another. Nothing is written to a file that is not ours, not even its mode.
pub(crate) fn open(path: &Path, disk: &Disk, occupied: bool) -> Result<Connection, StoreError> {
    let sql = |source| StoreError::Catalog { path: path.to_owned(), source };
    refuse_older(path)?;
    let mut connection = Connection::open(path).map_err(sql)?;
    // What is refused stays as it is: its log is not copied back where this connection is the last one.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sql)?;
    connection.busy_timeout(Duration::from_secs(60)).map_err(sql)?;
    connection.set_prepared_statement_cache_capacity(64);
    let migrated = done(&connection, path, occupied)? == MIGRATIONS.len();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(sql)?;
    // Not while it is migrated: a table that others refer to can only be made anew without.
    connection.pragma_update(None, "foreign_keys", migrated).map_err(sql)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(sql)?;
    connection.pragma_update(None, "synchronous", "full").map_err(sql)?;
    // With this on, plans do not depend on bound values; without it, SQLite may plan a query anew for each value.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(sql)?;
    // In KiB: the inner pages of the indexes of millions of rows.
    connection.pragma_update(None, "cache_size", -32_768).map_err(sql)?;
    if migrated {
        return Ok(connection);
    }

    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(sql)?;
    // Read again: another process may have migrated it in the meantime.
    for migration in &MIGRATIONS[done(&transaction, path, occupied)?..] {
        transaction.execute_batch(migration).map_err(sql)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
    transaction.pragma_update(None, "user_version", latest()).map_err(sql)?;
    // The directories of a new store, and those above it, are durable before a catalog says what is in them.
    disk.sync_file_system(path.parent().unwrap_or(path))?;
    disk.commit_point(path)?;
    transaction.commit().map_err(sql)?;
    disk.commit_done(path)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(sql)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `synchronous` belongs to a connection, so it is asked of one that the store uses.
    #[test]
    fn a_commit_is_durable_before_it_counts() {
        let directory = tempfile::tempdir().unwrap();
        for opened in ["created", "opened again"] {
            let connection = open(&directory.path().join("catalog.db"), &Disk::new(), false).unwrap();
            let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).unwrap();
            assert_eq!((pragma("synchronous"), pragma("foreign_keys")), (2, 1), "FULL and on, {opened}");
            let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
            assert_eq!(mode, "wal");
        }
    }
}
