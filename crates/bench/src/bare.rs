//! What publishing has to do to the disk, whoever does it: the least that a measurement can be compared with.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use strandline_durable::Disk;

/// Why it could not be done.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Prepares `directory` for so many projects: the files that their pages are linked to, and a tree that has the old ones.
fn prepare(directory: &Path, projects: usize, disk: &Disk) -> Result<(), Failure> {
    disk.remove_tree(directory)?;
    for part in ["blobs", "incoming", "tree/simple", "pool"] {
        disk.create_directory(&directory.join(part))?;
    }
    for number in 0..projects {
        let project = directory.join(format!("tree/simple/{number}"));
        disk.create_directory(&project)?;
        for page in PAGES {
            drop(disk.create_file(&project.join(page))?);
        }
        disk.create_file(&directory.join(format!("blobs/file-{number}")))?.write(&[0; 200])?;
    }
    disk.sync_file_system(directory)?;
    Ok(())
}

const PAGES: [&str; 3] = ["index.html", "index.v1_html", "index.v1_json"];

/// Puts `projects` changed projects, each with two new pages of `page` bytes and one new file, where readers see them, and
/// says how long that took: their bytes and one `syncfs`, renames and another, one COMMIT of a row for each page and project, links into the
/// pool and the tree, a sync of those, and the switch with another COMMIT.
pub fn publish(directory: &Path, projects: usize, page: usize) -> Result<Duration, Failure> {
    let disk = Disk::new();
    prepare(directory, projects, &disk)?;
    let mut catalog = Connection::open(directory.join("catalog.db"))?;
    catalog.pragma_update(None, "journal_mode", "wal")?;
    catalog.pragma_update(None, "synchronous", "full")?;
    catalog.execute_batch("CREATE TABLE row (id BLOB PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID")?;
    let bytes = vec![b'x'; page];
    let begin = Instant::now();

    for number in 0..2 * projects {
        let mut file = disk.create_file(&directory.join(format!("incoming/{number}")))?;
        file.write(&bytes)?;
        file.seal(1_000_000_000 + number as u64)?;
    }
    disk.sync_file_system(directory)?;
    for number in 0..2 * projects {
        disk.rename(&directory.join(format!("incoming/{number}")), &directory.join(format!("blobs/{number}")))?;
    }
    disk.sync_file_system(directory)?;
    let transaction = catalog.transaction()?;
    {
        let mut insert = transaction.prepare("INSERT INTO row VALUES (?1, ?2)")?;
        for number in 0..3 * projects {
            insert.execute((number.to_le_bytes(), &bytes[..page.min(200)]))?;
        }
    }
    transaction.commit()?;

    for number in 0..projects {
        let directory = directory.join(format!("pool/{number}"));
        disk.create_directory(&directory)?;
        disk.link_or_copy(&directory.join(format!("../../blobs/file-{number}")), &directory.join("file"))?;
    }
    disk.sync_file_system(directory)?;
    for number in 0..projects {
        for (which, name) in [(0, PAGES[0]), (0, PAGES[1]), (1, PAGES[2])] {
            let link = directory.join(format!("tree/simple/{number}/{name}"));
            disk.remove_file(&link)?;
            disk.link_or_copy(&directory.join(format!("blobs/{}", 2 * number + which)), &link)?;
        }
    }
    disk.sync_file_system(directory)?;
    catalog.execute("INSERT INTO row VALUES ('live', 'a')", [])?;
    disk.switch_link(&directory.join("live"), Path::new("tree"))?;
    disk.sync_directory(directory)?;
    let took = begin.elapsed();
    drop(catalog);
    disk.remove_tree(directory)?;
    Ok(took)
}

/// The most memory that this process has had, in bytes.
pub fn peak_memory() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kilobytes.unwrap_or(0) * 1024)
}

/// How much CPU this process has used.
pub fn cpu() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Behind the name, which may have anything in it, `utime` and `stime` are the twelfth and thirteenth field, in ticks of
    // which there are always 100 in a second for user space.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11);
    Ok(fields.take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0)
}

/// Writes a line to stdout, where whoever measures reads it.
pub fn say(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

/// Opens and syncs a directory's file system, so that what was before does not count for what comes.
pub fn settle(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
