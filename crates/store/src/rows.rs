//! Reading rows of the catalog, each column as the type that it holds.

use std::fmt;
use std::str::FromStr;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Params, Row};
use strandline_model::{Blake3, Serial, Sha256, Timestamp};

use crate::{Store, StoreError};

/// A column holds what this program would not have written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(String);

fn unreadable(column: usize, of: Type, problem: impl fmt::Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, of, Box::new(Unreadable(problem.to_string())))
}

/// A column of text, as what it says.
pub(crate) fn parsed<T: FromStr<Err: fmt::Display>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error| unreadable(column, Type::Text, format!("`{}`: {error}", text.escape_debug())))
}

/// The same where there may be none.
pub(crate) fn parsed_or_null<T: FromStr<Err: fmt::Display>>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>> {
    row.get_ref(column)?.as_str_or_null()?.map(|_| parsed(row, column)).transpose()
}

/// A column of 32 bytes that is a BLAKE3.
pub(crate) fn blake3(row: &Row<'_>, column: usize) -> rusqlite::Result<Blake3> {
    Ok(Blake3::from_stored(row.get(column)?))
}

/// The same where there may be none.
pub(crate) fn blake3_or_null(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Blake3>> {
    Ok(row.get::<_, Option<_>>(column)?.map(Blake3::from_stored))
}

/// A column of 32 bytes that is a SHA-256.
pub(crate) fn sha256(row: &Row<'_>, column: usize) -> rusqlite::Result<Sha256> {
    Ok(Sha256::from_stored(row.get(column)?))
}

/// A column that is a serial.
pub(crate) fn serial(row: &Row<'_>, column: usize) -> rusqlite::Result<Serial> {
    row.get::<_, u64>(column)?.try_into().map_err(|error| unreadable(column, Type::Integer, error))
}

/// A column of seconds since 1970.
pub(crate) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    let time = Timestamp::from_seconds(row.get(column)?);
    time.map_err(|error| unreadable(column, Type::Integer, format!("a time that is none: {error}")))
}

/// All rows of a query. The statement is kept for the next time.
pub(crate) fn rows<T>(
    connection: &Connection,
    query: &str,
    parameters: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare_cached(query)?.query_map(parameters, read)?.collect()
}

/// The first row of a query, if it has one.
pub(crate) fn row<T>(
    connection: &Connection,
    query: &str,
    parameters: impl Params,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    connection.prepare_cached(query)?.query_row(parameters, read).optional()
}

/// Runs a statement for each of `all`.
pub(crate) fn execute_each<T, P: Params>(
    connection: &Connection,
    query: &str,
    all: impl IntoIterator<Item = T>,
    parameters: impl Fn(T) -> P,
) -> rusqlite::Result<usize> {
    let mut statement = connection.prepare_cached(query)?;
    all.into_iter().map(|one| statement.execute(parameters(one))).sum()
}

impl Store {
    /// All rows of a query.
    pub(crate) fn rows<T>(
        &self,
        query: &str,
        parameters: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        rows(&self.connection(), query, parameters, read).map_err(self.sql())
    }

    /// The first row of a query, if it has one.
    pub(crate) fn row<T>(
        &self,
        query: &str,
        parameters: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        row(&self.connection(), query, parameters, read).map_err(self.sql())
    }

    /// What a query says that has exactly one row of one column.
    pub(crate) fn says(&self, query: &str, parameters: impl Params) -> Result<bool, StoreError> {
        Ok(self.row(query, parameters, |row| row.get(0))?.unwrap_or(false))
    }

    /// Runs one statement in a transaction of its own; returns how many rows it changed.
    pub(crate) fn execute(&self, query: &str, parameters: impl Params) -> Result<usize, StoreError> {
        self.transaction(|transaction| {
            let run = || transaction.prepare_cached(query)?.execute(parameters);
            run().map_err(self.sql())
        })
    }
}
