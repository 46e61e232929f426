//! Damage to a catalog.

use std::path::Path;

use rusqlite::Connection;
use strandline_model::Blake3;

use crate::Outcome;

/// Takes a body out of the catalog of the store at `root`, which no process has open.
pub fn lose_body(root: &Path, id: Blake3) -> Outcome<()> {
    let lost = Connection::open(root.join("catalog.db"))?.execute("DELETE FROM body WHERE id = ?1", [id.as_bytes()])?;
    if lost == 1 { Ok(()) } else { Err(format!("the catalog has no body {id}").into()) }
}
