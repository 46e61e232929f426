//! What SQLite says of its own file.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::{CATALOG, StoreError};

/// How many problems are asked for: more than a person reads.
const MOST: u32 = 50;

/// What is wrong with the pages of the catalog; nothing if it is whole. `thorough` compares the indexes with their tables,
/// too.
pub(super) fn check(connection: &Connection, thorough: bool) -> rusqlite::Result<Vec<String>> {
    let pragma = if thorough { "integrity_check" } else { "quick_check" };
    let read = || -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(&format!("PRAGMA {pragma}({MOST})"))?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    match read() {
        Ok(lines) if lines == ["ok"] => Ok(Vec::new()),
        Ok(lines) => Ok(lines.iter().flat_map(|line| line.lines()).map(str::to_owned).collect()),
        Err(error) if is_corruption(&error) => Ok(vec![error.to_string()]),
        Err(error) => Err(error),
    }
}

/// What is wrong with the pages of the catalog of the store at `root`, which cannot be opened. Changes nothing.
pub fn damaged_pages(root: &Path) -> Result<Vec<String>, StoreError> {
    let path = root.join(CATALOG);
    let open = || {
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        check(&connection, true)
    };
    match open() {
        Err(error) if is_corruption(&error) => Ok(vec![error.to_string()]),
        done => done.map_err(|source| StoreError::Catalog { path, source }),
    }
}

/// Whether SQLite could not make sense of its own file.
pub(crate) fn is_corruption(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}
