//! What publishing has to do to the disk, whoever does it: the least that a measurement can be compared with.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use strandline_durable::Disk;
use strandline_model::Blake3;

/// Why it could not be done.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

const PAGES: [&str; 3] = ["index.html", "index.v1_html", "index.v1_json"];

/// Where a blob is, as in a store: in one of 256 directories.
fn blob(directory: &Path, name: &str) -> PathBuf {
    let name = Blake3::of(name.as_bytes()).to_string();
    directory.join("blobs").join(&name[..2]).join(&name[2..])
}

/// Where a file is in the pool, as on an index: three directories deep.
fn file(directory: &Path, number: usize) -> PathBuf {
    let name = Blake3::of(&number.to_le_bytes()).to_string();
    directory.join("pool").join(&name[..2]).join(&name[2..4]).join(&name[4..]).join("file")
}

/// The pages of a project, in the tree or as a blob.
fn page(number: usize, page: &str) -> String {
    // Two of the three are one file.
    let content = if page.ends_with("json") { "json" } else { "html" };
    format!("{number}/{content}")
}

/// Prepares `directory`: a tree that has old pages of twice as many projects, new pages of the second half as blobs, and a new
/// file for each of the first half as it came in.
fn prepare(directory: &Path, projects: usize, bytes: &[u8], disk: &Disk) -> Result<(), Failure> {
    disk.remove_tree(directory)?;
    for part in 0..256 {
        disk.create_directory(&directory.join(format!("blobs/{part:02x}")))?;
    }
    for part in ["incoming", "tree/simple", "pool"] {
        disk.create_directory(&directory.join(part))?;
    }
    for number in 0..2 * projects {
        let project = directory.join(format!("tree/simple/{number}"));
        disk.create_directory(&project)?;
        for page in PAGES {
            drop(disk.create_file(&project.join(page))?);
        }
        if number >= projects {
            for page in [page(number, PAGES[0]), page(number, PAGES[2])] {
                disk.create_file(&blob(directory, &page))?.write(bytes)?;
            }
        } else {
            disk.create_file(&directory.join(format!("incoming/{number}")))?.write(&[0; 200])?;
        }
    }
    disk.sync_file_system(directory)?;
    Ok(())
}

/// Puts `projects` changed projects, each with two new pages of `bytes` bytes and one new file that came in already, where
/// readers see them, and says how long that took. It does what a store does to the disk, at paths like a store's: it writes the
/// pages, syncs, renames them and the files, syncs, and commits a row for each blob and project; it links the files into the
/// pool, and the pages into a tree, which lacks the changes of the sync before, too, for there are two of them; it syncs, and
/// switches with another COMMIT.
pub fn publish(directory: &Path, projects: usize, bytes: usize) -> Result<Duration, Failure> {
    let disk = Disk::new();
    let bytes = vec![b'x'; bytes];
    prepare(directory, projects, &bytes, &disk)?;
    let mut catalog = Connection::open(directory.join("catalog.db"))?;
    catalog.pragma_update(None, "journal_mode", "wal")?;
    catalog.pragma_update(None, "synchronous", "full")?;
    catalog.execute_batch("CREATE TABLE row (id BLOB PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID")?;
    let begin = Instant::now();

    let mut came: Vec<(PathBuf, PathBuf)> = Vec::new();
    for number in 0..projects {
        let incoming = directory.join(format!("incoming/{number}"));
        disk.protect(&incoming)?;
        disk.set_time(&incoming, 1_000_000_000 + number as u64)?;
        came.push((incoming, blob(directory, &format!("file {number}"))));
        for page in [page(number, PAGES[0]), page(number, PAGES[2])] {
            let incoming = directory.join(format!("incoming/page-{}", came.len()));
            let mut file = disk.create_file(&incoming)?;
            file.write(&bytes)?;
            file.seal(1_000_000_000 + came.len() as u64)?;
            came.push((incoming, blob(directory, &page)));
        }
    }
    disk.sync_file_system(directory)?;
    for (incoming, blob) in &came {
        disk.rename(incoming, blob)?;
    }
    disk.sync_file_system(directory)?;
    let transaction = catalog.transaction()?;
    {
        let mut insert = transaction.prepare("INSERT INTO row VALUES (?1, ?2)")?;
        for number in 0..4 * projects {
            let id = Blake3::of(&number.to_le_bytes());
            insert.execute((id.as_bytes(), &bytes[..bytes.len().min(200)]))?;
        }
    }
    transaction.commit()?;

    for number in 0..projects {
        let file = file(directory, number);
        disk.create_directory(file.parent().unwrap_or(directory))?;
        disk.link_or_copy(&blob(directory, &format!("file {number}")), &file)?;
    }
    for number in 0..2 * projects {
        for name in PAGES {
            let link = directory.join(format!("tree/simple/{number}/{name}"));
            disk.remove_file(&link)?;
            disk.link_or_copy(&blob(directory, &page(number, name)), &link)?;
        }
    }
    disk.sync_file_system(directory)?;
    catalog.execute("INSERT INTO row VALUES ('live', 'a')", [])?;
    disk.switch_link(&directory.join("live"), Path::new("tree"))?;
    let took = begin.elapsed();
    disk.sync_directory(directory)?;
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
