//! Every table of the catalog belongs to the whole store or to one mirror, and what belongs to a mirror goes with its row.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use crate::support::{Opened, content, mirror};

/// The tables that are of no mirror alone, each with the reason.
const OF_THE_STORE: [(&str, &str); 13] = [
    ("blob", "bytes are shared"),
    ("checked", "of a blob"),
    ("body", "bodies are shared; gc drops what nothing reaches"),
    ("pack", "bodies are in packs; gc drops those without any"),
    ("mirror", "the row itself"),
    ("next_mtime", "one number"),
    ("sequence", "one number"),
    ("usage", "of all blobs"),
    ("data_check", "a check may be of several mirrors; which ones it is of goes with them"),
    ("withdrawal", "the record of what an operator ordered outlives a mirror, should one of that name come back"),
    ("purging_bytes", "of all blobs"),
    ("sqlite_sequence", "SQLite's own, of numbers that were given out"),
    ("sqlite_stat1", "SQLite's own, where it has counted rows"),
];

/// The tables that each table refers to such that its rows go with theirs.
fn cascades(sql: &Connection) -> BTreeMap<String, BTreeSet<String>> {
    let mut tables = sql.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let names: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let parents = |name: &String| {
        let query = "SELECT \"table\" FROM pragma_foreign_key_list(?1) WHERE on_delete = 'CASCADE'";
        let mut statement = sql.prepare(query).unwrap();
        statement.query_map([name], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    names.iter().map(|name| (name.clone(), parents(name))).collect()
}

#[test]
fn every_table_is_of_the_store_or_goes_with_its_mirror() {
    let world = Opened::new();
    let cascades = cascades(&world.sql());
    let mut of_a_mirror = BTreeSet::from(["mirror".to_owned()]);
    // As often as there are tables: each round finds at least one more, or none is left.
    for _ in 0..cascades.len() {
        let found = cascades.iter().filter(|(_, parents)| !parents.is_disjoint(&of_a_mirror));
        of_a_mirror.extend(found.map(|(name, _)| name.clone()).collect::<Vec<_>>());
    }
    of_a_mirror.remove("mirror");
    let of_the_store: BTreeSet<_> = OF_THE_STORE.iter().map(|(name, _)| (*name).to_owned()).collect();
    let forgotten: Vec<_> =
        cascades.keys().filter(|name| !of_a_mirror.contains(*name) && !of_the_store.contains(*name)).collect();
    assert_eq!(forgotten, Vec::<&String>::new(), "each needs `REFERENCES mirror (id) ON DELETE CASCADE`, or a reason");
    assert!(of_a_mirror.is_disjoint(&of_the_store), "the reasons are still true");
    assert!(of_a_mirror.len() >= 20, "{of_a_mirror:?}");
}

/// With a row in each table of a mirror, one DELETE empties them all, and leaves those of another mirror.
#[test]
fn a_removed_mirror_leaves_no_row() {
    let world = Opened::new();
    let sql = || {
        let sql = world.sql();
        sql.pragma_update(None, "foreign_keys", true).unwrap();
        sql
    };
    for name in ["pypi", "other"] {
        world.record(name, 1, &[("six", Some(content("six", name, &[])))]);
        world.record(name, 2, &[("six", Some(content("six", &format!("{name} again"), &[])))]);
        sql()
            .execute_batch(&format!(
                "CREATE TEMP TABLE me AS SELECT m.id AS mirror, min(s.id) AS first, max(s.id) AS second
                   FROM mirror m JOIN snapshot s ON s.mirror = m.id WHERE m.name = '{name}';
                 INSERT INTO private_blob SELECT zeroblob(32), mirror FROM me;
                 INSERT INTO intake SELECT mirror, 1 FROM me;
                 INSERT INTO arriving SELECT mirror, zeroblob(32) FROM me;
                 INSERT INTO data_check SELECT mirror, 1 FROM me;
                 INSERT INTO data_check_mirror SELECT mirror, mirror FROM me;
                 INSERT INTO superseded SELECT first, second FROM me;
                 INSERT INTO pin SELECT first, 1 FROM me;
                 INSERT INTO view SELECT mirror, 'a', second, first, 1, 0 FROM me;
                 INSERT INTO twin SELECT mirror, 'a', first, second FROM me;
                 INSERT INTO pool_leaving SELECT mirror, 'packages/x', 1 FROM me;
                 INSERT INTO last_sync (mirror, time) SELECT mirror, 1 FROM me;
                 INSERT INTO seen (mirror, project, unit, told, seen, listed, serial)
                   SELECT mirror, 'six', zeroblob(32), zeroblob(32), zeroblob(32), 1, 1 FROM me;
                 INSERT INTO validator SELECT mirror, 'six', zeroblob(32), 'tag' FROM me;
                 INSERT INTO sight SELECT mirror, 1, 'six', zeroblob(32), 1, 1 FROM me;
                 INSERT INTO unlogged SELECT mirror, 'six', 1 FROM me;
                 INSERT INTO sweep SELECT mirror, 'six', 1 FROM me;
                 INSERT INTO missing_serial SELECT mirror, 1 FROM me;
                 INSERT INTO adopted SELECT mirror, 'six', zeroblob(32) FROM me;
                 INSERT INTO purging SELECT mirror FROM me;
                 INSERT INTO left_out SELECT mirror, 'six', zeroblob(32) FROM me;
                 INSERT INTO remark SELECT mirror, 'six', 0, '/new' FROM me;
                 INSERT INTO reread SELECT mirror, 'six' FROM me;"
            ))
            .unwrap();
    }
    let counts = || -> BTreeMap<String, u64> {
        let sql = sql();
        let of_a_mirror =
            cascades(&sql).into_keys().filter(|name| !OF_THE_STORE.iter().any(|(other, _)| other == name));
        of_a_mirror
            .map(|name| {
                let count = sql.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get(0)).unwrap();
                (name, count)
            })
            .collect()
    };
    let both = counts();
    assert!(both.values().all(|count| *count > 0 && *count % 2 == 0), "each mirror has as many rows: {both:?}");
    let removed = sql().execute("DELETE FROM mirror WHERE name = 'pypi'", []).unwrap();
    assert_eq!(removed, 1);
    assert_eq!(counts(), both.into_iter().map(|(name, count)| (name, count / 2)).collect());
    // And by the program.
    world.lock("other").remove().unwrap();
    assert!(counts().values().all(|count| *count == 0), "{:?}", counts());
    assert!(world.store.mirror(&mirror("other")).unwrap().is_none());
}
