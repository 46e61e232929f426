//! The catalog's tables.
//!
//! Migrations are append-only and keyed by `user_version`: version n is what the first n of them make. The first one is
//! pinned below, and `tests/store/migrations.rs` opens a catalog that it made.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use strandline_durable::Disk;

use crate::StoreError;

/// "strd": marks the file as one of ours.
const APPLICATION_ID: i32 = 0x7374_7264;

const MIGRATIONS: &[&str] = &["
    -- The next time of modification to give to a file, in seconds since 1970. nginx makes its entity tags from
    -- that time and the size, so no two files of a store ever have the same time.
    CREATE TABLE next_mtime (value INTEGER NOT NULL);
    INSERT INTO next_mtime VALUES (1000000000);

    -- Numbers the beginnings of syncs and of collections, so that it is known which came first, whatever the clock says.
    CREATE TABLE sequence (value INTEGER NOT NULL);
    INSERT INTO sequence VALUES (0);

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

    -- Which private mirrors have brought a blob. By name: a mirror without a snapshot has no row.
    CREATE TABLE private_blob (
        blake3 BLOB NOT NULL,
        mirror TEXT NOT NULL,
        PRIMARY KEY (blake3, mirror)
    ) STRICT, WITHOUT ROWID;

    -- Who is taking blobs in, and since which number of the sequence: what they found is not deleted under their feet. A row
    -- whose lock is free is that of a process that died.
    CREATE TABLE intake (
        mirror TEXT PRIMARY KEY,
        began  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- Blobs whose files are being put in their places: what a crash leaves of them has no row in `blob`.
    CREATE TABLE arriving (
        mirror TEXT NOT NULL,
        blake3 BLOB NOT NULL,
        PRIMARY KEY (mirror, blake3)
    ) STRICT, WITHOUT ROWID;

    -- The canonical bytes of units, nodes and snapshots, deflated, by the BLAKE3 of the bytes themselves.
    CREATE TABLE body (
        id       BLOB PRIMARY KEY CHECK (length(id) = 32),
        size     INTEGER NOT NULL,
        deflated BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER body_is_immutable BEFORE UPDATE ON body
        BEGIN SELECT RAISE(ABORT, 'a body never changes'); END;
    CREATE TRIGGER body_is_not_replaced BEFORE INSERT ON body
        WHEN EXISTS (SELECT 1 FROM body WHERE id = NEW.id)
        BEGIN SELECT RAISE(ABORT, 'a body never changes'); END;

    CREATE TABLE mirror (
        id       INTEGER PRIMARY KEY,
        name     TEXT NOT NULL UNIQUE,
        upstream TEXT NOT NULL,
        -- 1 from the moment on in which it was decided that it goes, until nothing is left of it.
        removing INTEGER NOT NULL DEFAULT 0,
        -- Of all blobs that its snapshots name, and of those that no other mirror's name, in bytes; gc finds out.
        bytes    INTEGER,
        own      INTEGER
    ) STRICT;

    CREATE TABLE snapshot (
        id       BLOB PRIMARY KEY REFERENCES body (id),
        mirror   INTEGER NOT NULL REFERENCES mirror (id),
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

    -- The bytes of all blobs, as gc found them.
    CREATE TABLE usage (
        one   INTEGER PRIMARY KEY CHECK (one = 1),
        bytes INTEGER NOT NULL,
        time  INTEGER NOT NULL
    ) STRICT;

    -- Snapshots that stay, whatever retention says.
    CREATE TABLE pin (
        snapshot BLOB PRIMARY KEY REFERENCES snapshot (id),
        time     INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- What `live` points to, and since when. frozen: an operator rolled back, so syncs do not publish.
    CREATE TABLE view (
        mirror   INTEGER PRIMARY KEY REFERENCES mirror (id),
        slot     TEXT NOT NULL CHECK (slot IN ('a', 'b')),
        snapshot BLOB NOT NULL REFERENCES snapshot (id),
        previous BLOB REFERENCES snapshot (id),
        switched INTEGER NOT NULL,
        frozen   INTEGER NOT NULL DEFAULT 0
    ) STRICT;

    -- What a twin holds: `base`, or while it is being changed anything between `base` and `target`.
    CREATE TABLE twin (
        mirror INTEGER NOT NULL REFERENCES mirror (id),
        slot   TEXT NOT NULL CHECK (slot IN ('a', 'b')),
        base   BLOB REFERENCES snapshot (id),
        target BLOB REFERENCES snapshot (id),
        PRIMARY KEY (mirror, slot)
    ) STRICT, WITHOUT ROWID;

    -- Paths of the pool that no retained snapshot names any more, and since when.
    CREATE TABLE pool_leaving (
        mirror INTEGER NOT NULL REFERENCES mirror (id),
        path   TEXT NOT NULL,
        since  INTEGER NOT NULL,
        PRIMARY KEY (mirror, path)
    ) STRICT, WITHOUT ROWID;

    -- A cache that may be lost: with what to ask upstream whether a page is still the one that `unit` shows.
    CREATE TABLE validator (
        mirror  INTEGER NOT NULL REFERENCES mirror (id),
        project TEXT NOT NULL,
        unit    BLOB NOT NULL,
        tag     TEXT NOT NULL,
        PRIMARY KEY (mirror, project)
    ) STRICT, WITHOUT ROWID;

    -- Since when a project has stood in the way of a sync, where the changelog does not say it. By the mirror's name: a
    -- mirror without a snapshot has no row.
    CREATE TABLE trouble (
        mirror  TEXT NOT NULL,
        project TEXT NOT NULL,
        since   INTEGER NOT NULL,
        PRIMARY KEY (mirror, project)
    ) STRICT, WITHOUT ROWID;

    -- How far the slow sweep over all pages is: up to and including a project, and since when it stands there.
    CREATE TABLE recheck (
        mirror  INTEGER PRIMARY KEY REFERENCES mirror (id),
        project TEXT NOT NULL,
        time    INTEGER NOT NULL
    ) STRICT;

    -- How the last sync of a mirror ended, for `status`.
    CREATE TABLE last_sync (
        mirror  INTEGER PRIMARY KEY REFERENCES mirror (id),
        time    INTEGER NOT NULL,
        failure TEXT,
        -- Of the last cut by changelog: the log's head, since when the oldest event is missing, and how many rounds.
        head    INTEGER,
        behind  INTEGER,
        rounds  INTEGER
    ) STRICT;

    -- Pages that were fetched and that no snapshot shows yet, in the order in which they came: what an interrupted first
    -- sync has, and what a cut could not take yet. By the mirror's name: a mirror without a snapshot has no row. `serial` is
    -- that of the page which the unit shows, `tag` its entity tag.
    CREATE TABLE seen (
        number  INTEGER PRIMARY KEY,
        mirror  TEXT NOT NULL,
        project TEXT NOT NULL,
        unit    BLOB NOT NULL,
        serial  INTEGER NOT NULL,
        tag     TEXT,
        UNIQUE (mirror, project, unit)
    ) STRICT;
", "
    -- Serials up to that of the newest snapshot that upstream's log had not shown when it was made: an event that comes to
    -- light with one of them is one that snapshots lack. By the mirror's name.
    CREATE TABLE missing_serial (
        mirror TEXT NOT NULL,
        serial INTEGER NOT NULL,
        PRIMARY KEY (mirror, serial)
    ) STRICT, WITHOUT ROWID;
", "
    -- Projects as another program's tree had them, whose files were taken over: a unit names what gc leaves alone until a
    -- snapshot shows the project, or does not. By the mirror's name: a mirror without a snapshot has no row.
    CREATE TABLE adopted (
        mirror  TEXT NOT NULL,
        project TEXT NOT NULL,
        unit    BLOB NOT NULL,
        PRIMARY KEY (mirror, project, unit)
    ) STRICT, WITHOUT ROWID;
", "
    -- What was withdrawn from a mirror (from all where it names none), and what was let back: rows are only ever added, and
    -- the newest one about a file decides.
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

    -- Snapshots that are not served any more, for a revision of the same serial without what was withdrawn is: they are kept
    -- as long as that one is, and only as the record of what there was. Their blobs may be gone.
    CREATE TABLE superseded (
        snapshot    BLOB PRIMARY KEY REFERENCES snapshot (id) ON DELETE CASCADE,
        replacement BLOB NOT NULL REFERENCES snapshot (id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX superseded_replacement ON superseded (replacement);

    -- The mirrors from which something is being withdrawn, by name, and the empty name while blobs are still to be deleted:
    -- what a crash interrupts is finished because of these.
    CREATE TABLE purging (mirror TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;

    -- The projects whose pages lack a file because it is withdrawn, and those that the next sync has to read again because
    -- one was let back.
    CREATE TABLE left_out (
        mirror  TEXT NOT NULL,
        project TEXT NOT NULL,
        sha256  BLOB NOT NULL,
        PRIMARY KEY (mirror, project, sha256)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE reread (
        mirror  TEXT NOT NULL,
        project TEXT NOT NULL,
        PRIMARY KEY (mirror, project)
    ) STRICT, WITHOUT ROWID;
", "
    -- When the bytes of a blob were last read and found right, and with which number of the sequence that check began. What
    -- comes in again loses its row, for nobody has read it since.
    CREATE TABLE checked (
        blake3 BLOB PRIMARY KEY REFERENCES blob (blake3) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        time   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX checked_number ON checked (number);

    -- Checks of all data that have not come to their end: of which mirrors, with which number of the sequence, since when.
    CREATE TABLE data_check (
        mirrors TEXT PRIMARY KEY,
        number  INTEGER NOT NULL,
        began   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
", "
    -- What the newest tree of a mirror lists, in the order of names: it can be made anew from the tree. `sum` is over all its
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
        unit    BLOB NOT NULL,
        serial  INTEGER NOT NULL,
        display TEXT,
        PRIMARY KEY (mirror, name)
    ) STRICT, WITHOUT ROWID;
", "
    -- Bodies with a row number: in a table without, what is larger than a quarter of a page takes another page whole, and a
    -- unit of ten files is.
    CREATE TABLE body_with_number (
        number   INTEGER PRIMARY KEY,
        id       BLOB NOT NULL UNIQUE CHECK (length(id) = 32),
        size     INTEGER NOT NULL,
        deflated BLOB NOT NULL
    ) STRICT;
    INSERT INTO body_with_number (id, size, deflated) SELECT id, size, deflated FROM body;
    DROP TABLE body;
    ALTER TABLE body_with_number RENAME TO body;
    CREATE TRIGGER body_is_immutable BEFORE UPDATE ON body
        BEGIN SELECT RAISE(ABORT, 'a body never changes'); END;
    CREATE TRIGGER body_is_not_replaced BEFORE INSERT ON body
        WHEN EXISTS (SELECT 1 FROM body WHERE id = NEW.id OR number = NEW.number)
        BEGIN SELECT RAISE(ABORT, 'a body never changes'); END;
"];

/// Opens the catalog, and makes it if there is none. One without a table is refused where the store is `occupied`: it is
/// what is left of another.
pub(crate) fn open(path: &Path, disk: &Disk, occupied: bool) -> Result<Connection, StoreError> {
    let sql = |source| StoreError::Catalog { path: path.to_owned(), source };
    let foreign = |problem: String| StoreError::Foreign { path: path.to_owned(), problem };
    let mut connection = Connection::open(path).map_err(sql)?;
    connection.busy_timeout(Duration::from_secs(60)).map_err(sql)?;
    connection.set_prepared_statement_cache_capacity(64);
    let number = |connection: &Connection, name: &str| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(sql)
    };
    let latest = i32::try_from(MIGRATIONS.len()).expect("there are few migrations");
    // Returns how many migrations were done. Nothing is written to a file that is not ours, not even its mode.
    let done = |connection: &Connection| {
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sql)?;
        if tables == 0 && occupied {
            return Err(StoreError::NoCatalog { path: path.to_owned(), found: "empty" });
        }
        if tables > 0 && number(connection, "application_id")? != APPLICATION_ID {
            return Err(foreign("is another program's database".to_owned()));
        }
        let version = number(connection, "user_version")?;
        match usize::try_from(version) {
            Ok(done) if done <= MIGRATIONS.len() => Ok(done),
            Ok(_) => Err(foreign(format!(
                "has version {version}, and this program knows versions up to {latest}: use the program that wrote it, or a newer one"
            ))),
            Err(_) => Err(foreign(format!("has the unknown version {version}"))),
        }
    };
    let migrated = done(&connection)? == MIGRATIONS.len();
    // Not while it is migrated: a table that others refer to can only be made anew without.
    connection.pragma_update(None, "foreign_keys", migrated).map_err(sql)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(sql)?;
    connection.pragma_update(None, "synchronous", "full").map_err(sql)?;
    // A plan does not depend on what is bound: otherwise SQLite may plan a query anew for each value.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(sql)?;
    // In KiB: the inner pages of the indexes of millions of rows.
    connection.pragma_update(None, "cache_size", -32_768).map_err(sql)?;
    if migrated {
        return Ok(connection);
    }

    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(sql)?;
    // Read again: another process may have migrated it in the meantime.
    for migration in &MIGRATIONS[done(&transaction)?..] {
        transaction.execute_batch(migration).map_err(sql)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
    transaction.pragma_update(None, "user_version", latest).map_err(sql)?;
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
    use strandline_model::Blake3;

    use super::*;

    fn schema(sql: &str) -> Vec<(String, String)> {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        let mut statement =
            connection.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// Catalogs of version 1 are in the world: a change of the first migration would make others of the same number.
    #[test]
    fn the_first_migration_never_changes() {
        let digest = Blake3::of(MIGRATIONS[0].as_bytes()).to_string();
        assert_eq!(
            digest, "0426664f89e71976d2a56a82fe99e96ac2aaadc920506ceeaa840d5916bd932a",
            "append a migration instead"
        );
        assert_eq!(schema(MIGRATIONS[0]), schema(include_str!("../tests/fixtures/catalog-1.sql")));
    }

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
