//! Random histories: events of all kinds, as often as upstream sees them, decided by a seed.

use std::collections::{HashMap, VecDeque};

use crate::project::{Project, Status, StoredFile};
use crate::rng::Rng;
use crate::wheel::{Upload, WheelSpec};
use crate::world::World;

/// How often each kind of step comes, relative to the others. 0 is never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// A first file of a new release.
    pub release: u32,
    /// One more file of a release.
    pub file: u32,
    /// A new project, or one created anew after its removal, with its first release.
    pub create: u32,
    /// A role event.
    pub role: u32,
    /// A yank, with or without reason.
    pub yank: u32,
    /// The undoing of one.
    pub unyank: u32,
    /// A file removed.
    pub remove_file: u32,
    /// A release removed.
    pub remove_release: u32,
    /// A project removed.
    pub remove_project: u32,
    /// A project quarantined.
    pub quarantine: u32,
    /// A project's quarantine cleared.
    pub clear_quarantine: u32,
    /// A release quarantined.
    pub quarantine_release: u32,
    /// A release's quarantine cleared.
    pub clear_release_quarantine: u32,
    /// A project archived: not journaled.
    pub archive: u32,
    /// The undoing of that: not journaled.
    pub unarchive: u32,
    /// A release and its dependent.
    pub pair: u32,
    /// The beginning of many uploads to one release, which come one by one among the next steps.
    pub burst: u32,
    /// A release removed, and made again in another spelling of its version. By default never.
    pub respell: u32,
    /// A project's display name spelled otherwise: not journaled. By default never.
    pub respell_project: u32,
    /// Metadata put beside the wheels of a project that have none: not journaled. By default never, and then each wheel has
    /// its metadata from the beginning.
    pub backfill: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            release: 400,
            file: 300,
            create: 60,
            role: 60,
            yank: 30,
            unyank: 15,
            remove_file: 20,
            remove_release: 20,
            remove_project: 15,
            quarantine: 8,
            clear_quarantine: 6,
            quarantine_release: 6,
            clear_release_quarantine: 5,
            archive: 5,
            unarchive: 3,
            pair: 40,
            burst: 2,
            respell: 0,
            respell_project: 0,
            backfill: 0,
        }
    }
}

impl Weights {
    /// The default without what is not journaled, so that the state at a serial never changes afterwards.
    pub fn journaled() -> Self {
        Self { archive: 0, unarchive: 0, ..Self::default() }
    }

    /// All that upstream does, and what it does rarely often.
    pub fn everything() -> Self {
        Self {
            create: 100,
            role: 100,
            remove_project: 60,
            quarantine: 40,
            clear_quarantine: 40,
            quarantine_release: 20,
            clear_release_quarantine: 20,
            archive: 30,
            unarchive: 20,
            respell: 40,
            respell_project: 30,
            backfill: 30,
            ..Self::default()
        }
    }

    fn table(&self) -> [(Kind, u32); 20] {
        [
            (Kind::Release, self.release),
            (Kind::File, self.file),
            (Kind::Create, self.create),
            (Kind::Role, self.role),
            (Kind::Yank, self.yank),
            (Kind::Unyank, self.unyank),
            (Kind::RemoveFile, self.remove_file),
            (Kind::RemoveRelease, self.remove_release),
            (Kind::RemoveProject, self.remove_project),
            (Kind::Quarantine, self.quarantine),
            (Kind::ClearQuarantine, self.clear_quarantine),
            (Kind::QuarantineRelease, self.quarantine_release),
            (Kind::ClearReleaseQuarantine, self.clear_release_quarantine),
            (Kind::Archive, self.archive),
            (Kind::Unarchive, self.unarchive),
            (Kind::Pair, self.pair),
            (Kind::Burst, self.burst),
            (Kind::Respell, self.respell),
            (Kind::RespellProject, self.respell_project),
            (Kind::Backfill, self.backfill),
        ]
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Release,
    File,
    Create,
    Role,
    Yank,
    Unyank,
    RemoveFile,
    RemoveRelease,
    RemoveProject,
    Quarantine,
    ClearQuarantine,
    QuarantineRelease,
    ClearReleaseQuarantine,
    Archive,
    Unarchive,
    Pair,
    Burst,
    Respell,
    RespellProject,
    Backfill,
}

/// The two projects of dependent pairs. Nothing else ever happens to them.
pub const PAIR: (&str, &str) = ("Pair.Base", "pair_dependent");

/// Uploads in a burst.
const BURST: usize = 60;

/// Makes a world move. The same seed, weights and world give the same steps.
#[derive(Clone, Debug)]
pub struct Generator {
    rng: Rng,
    weights: Weights,
    /// Display names of all projects ever made but the pair.
    names: Vec<String>,
    /// Releases made so far by project: no version comes twice, as no filename may.
    releases: HashMap<String, u32>,
    files: u32,
    pairs: u32,
    burst: VecDeque<(String, String)>,
}

/// A world with `projects` projects (the pair among them) of one to three releases each, and then `steps` random steps;
/// with the generator that can go on.
pub fn history(seed: u64, projects: usize, steps: usize, weights: Weights) -> (World, Generator) {
    let mut world = World::new();
    let mut generator = Generator::new(seed, weights);
    generator.pair(&mut world);
    for _ in PAIR_PROJECTS..projects {
        generator.new_project(&mut world);
    }
    for _ in 0..steps {
        generator.step(&mut world);
    }
    (world, generator)
}

const PAIR_PROJECTS: usize = 2;

impl Generator {
    /// A generator that has made nothing yet.
    pub fn new(seed: u64, weights: Weights) -> Self {
        Self {
            rng: Rng::new(seed),
            weights,
            names: Vec::new(),
            releases: HashMap::new(),
            files: 0,
            pairs: 0,
            burst: VecDeque::new(),
        }
    }

    /// Changes how often each kind comes from now on.
    pub fn set_weights(&mut self, weights: Weights) {
        self.weights = weights;
    }

    /// One random step; returns the serials of the events it wrote, none if it was not journaled.
    pub fn step(&mut self, world: &mut World) -> Vec<u64> {
        let before = world.serial();
        let rest_of_burst = !self.burst.is_empty() && self.rng.chance(0.5);
        if rest_of_burst {
            self.next_of_burst(world);
        } else {
            // A kind that finds nothing to act on gives way to another.
            let done = (0..50).any(|_| {
                let kind = self.kind();
                self.act(world, kind).is_some()
            });
            if !done {
                self.new_project(world);
            }
        }
        let new = world.events().rev().map(|event| event.serial);
        let mut new: Vec<u64> = new.take_while(|serial| *serial > before).collect();
        new.reverse();
        new
    }

    /// Uploads the next dependent pair.
    pub fn pair(&mut self, world: &mut World) {
        self.pairs += 1;
        world.release_pair(PAIR.0, PAIR.1, &format!("1.{}", self.pairs));
    }

    fn kind(&mut self) -> Kind {
        let table = self.weights.table();
        let sum: u32 = table.iter().map(|(_, weight)| weight).sum();
        let mut left = self.rng.below(sum as usize);
        for (kind, weight) in table {
            let weight = weight as usize;
            if left < weight {
                return kind;
            }
            left -= weight;
        }
        Kind::Release
    }

    /// Does one thing of this kind, if there is a project for it.
    fn act(&mut self, world: &mut World, kind: Kind) -> Option<()> {
        match kind {
            Kind::Create => {
                self.create(world);
                Some(())
            }
            Kind::Pair => {
                self.pair(world);
                Some(())
            }
            Kind::Release => {
                let name = self.project(world, |project| project.status == Status::Active)?;
                self.release(world, &name);
                Some(())
            }
            Kind::File => {
                let (name, version) = self.version(world, |yanked, quarantined| !yanked && !quarantined)?;
                self.file(world, &name, &version);
                Some(())
            }
            Kind::Burst => {
                let (name, version) = self.version(world, |yanked, quarantined| !yanked && !quarantined)?;
                self.burst.extend(std::iter::repeat_n((name, version), BURST));
                self.next_of_burst(world);
                Some(())
            }
            Kind::Role => {
                let name = self.project(world, |_| true)?;
                let action = self.one_of(&[
                    "add Owner bob",
                    "remove Maintainer alice",
                    "invite Owner carol",
                    "accepted Owner carol",
                    "change Owner bob to Maintainer",
                    "revoke_invite Maintainer dan",
                ]);
                world.role(&name, action);
                Some(())
            }
            Kind::RemoveFile => {
                let name = self
                    .project(world, |project| project.status == Status::Active && project.files().next().is_some())?;
                let files: Vec<_> = world.current(&name)?.files().map(|file| file.filename.clone()).collect();
                let filename = self.rng.pick(&files)?;
                world.remove_file(&name, filename);
                Some(())
            }
            Kind::RemoveProject => {
                let name = self.project(world, |_| true)?;
                world.remove_project(&name);
                Some(())
            }
            Kind::Yank
            | Kind::Unyank
            | Kind::RemoveRelease
            | Kind::QuarantineRelease
            | Kind::ClearReleaseQuarantine => self.act_on_release(world, kind),
            Kind::Quarantine | Kind::ClearQuarantine | Kind::Archive | Kind::Unarchive => {
                self.act_on_status(world, kind)
            }
            Kind::Respell | Kind::RespellProject | Kind::Backfill => self.act_rarely(world, kind),
        }
    }

    fn act_on_release(&mut self, world: &mut World, kind: Kind) -> Option<()> {
        let (name, version) = self.version(world, |yanked, quarantined| match kind {
            Kind::Yank => !yanked && !quarantined,
            Kind::Unyank => yanked,
            Kind::QuarantineRelease => !quarantined,
            Kind::ClearReleaseQuarantine => quarantined,
            _ => true,
        })?;
        match kind {
            Kind::Yank => {
                let reason = self.one_of(&["", "broken", "see <a href=\"x\">&amp;</a> 'here'", "na\u{ef}ve \u{fc}ber"]);
                world.yank(&name, &version, Some(reason).filter(|reason| !reason.is_empty()));
            }
            Kind::Unyank => {
                world.unyank(&name, &version);
            }
            Kind::QuarantineRelease => {
                world.quarantine_release(&name, &version);
            }
            Kind::ClearReleaseQuarantine => {
                world.clear_release_quarantine(&name, &version);
            }
            _ => {
                world.remove_release(&name, &version);
            }
        }
        Some(())
    }

    /// What upstream does seldom, or did once.
    fn act_rarely(&mut self, world: &mut World, kind: Kind) -> Option<()> {
        match kind {
            Kind::Respell => {
                let (name, version) = self.version(world, |_, _| true)?;
                // One more zero at the end is the same version to every client.
                let respelt = format!("{}.0", Some(&version).filter(|version| version.ends_with(".0"))?);
                world.remove_release(&name, &version);
                self.file(world, &name, &respelt);
                Some(())
            }
            Kind::RespellProject => {
                let name = self.project(world, |project| project.status == Status::Active)?;
                let upper = name.to_uppercase();
                world.respell_project(&if upper == name { name.to_lowercase() } else { upper });
                Some(())
            }
            _ => {
                let bare =
                    |file: &StoredFile| file.metadata.is_none() && crate::wheel::metadata_of(&file.bytes).is_some();
                let name = self.project(world, |project| project.files().any(|file| bare(file)))?;
                world.backfill_metadata(&name);
                Some(())
            }
        }
    }

    fn act_on_status(&mut self, world: &mut World, kind: Kind) -> Option<()> {
        let wanted = match kind {
            Kind::ClearQuarantine => Status::Quarantined,
            Kind::Unarchive => Status::Archived,
            _ => Status::Active,
        };
        let name = self.project(world, |project| project.status == wanted)?;
        match kind {
            Kind::Quarantine => world.quarantine(&name),
            Kind::ClearQuarantine => world.clear_quarantine(&name),
            Kind::Archive => world.archive(&name),
            _ => world.unarchive(&name),
        };
        Some(())
    }

    /// A new project, or one that was removed, created anew.
    fn create(&mut self, world: &mut World) {
        let gone = (0..20).find_map(|_| {
            let name = self.rng.pick(&self.names)?;
            (world.current(name).is_none() && world.was_ever(name)).then(|| name.clone())
        });
        match gone.filter(|_| self.rng.chance(0.5)) {
            // A removed project often comes back in another spelling.
            Some(name) => {
                let name = if self.rng.chance(0.3) { name.to_uppercase() } else { name };
                world.create_project(&name);
                self.release(world, &name);
            }
            None => self.new_project(world),
        }
    }

    fn new_project(&mut self, world: &mut World) {
        let n = self.names.len();
        let name = match n {
            0 => "Zope.Interface".to_owned(),
            1 => "a__b".to_owned(),
            _ => match n % 8 {
                0 => format!("Big-Name-{n}"),
                1 => format!("under_score_{n}"),
                2 => format!("dotted.name.{n}"),
                3 => format!("MiXeD{n}"),
                4 => format!("dash--dash-{n}"),
                5 => format!("{n}digits"),
                _ => format!("plain{n}"),
            },
        };
        self.names.push(name.clone());
        world.create_project(&name);
        world.role(&name, "add Owner bob");
        for _ in 0..=self.rng.below(3) {
            self.release(world, &name);
        }
    }

    fn release(&mut self, world: &mut World, name: &str) {
        let n = self.releases.entry(crate::project::normalise(name)).or_default();
        *n += 1;
        let n = *n;
        let version = match self.rng.below(30) {
            0 => format!("0.{n}rc1"),
            1 => format!("0.{n}.post2"),
            2 => format!("0.{n}.dev7"),
            3 => format!("1!0.{n}"),
            // The spelling of old releases: the log has this one, and clients know the version as 0.Nb2.
            4 => format!("0.{n}-beta.2"),
            _ => format!("0.{n}.0"),
        };
        self.file(world, name, &version);
    }

    /// Uploads one more file of a release.
    fn file(&mut self, world: &mut World, name: &str, version: &str) {
        self.files += 1;
        let size = self.rng.below(600);
        // A dash in the version would make an sdist's filename say something else.
        if self.rng.chance(0.25) && !version.contains('-') {
            // Once per release, because the name of an sdist says nothing else; old sdists bear the display name.
            let stem =
                if self.rng.chance(0.5) { name.to_owned() } else { crate::project::normalise(name).replace('-', "_") };
            let filename = format!("{stem}-{version}.tar.gz");
            if !world.knows_file(name, &filename) {
                let upload = Upload::raw(&filename, version, self.rng.bytes(size + 1));
                world.upload(name, &upload);
                return;
            }
        }
        let mut spec = WheelSpec::new(name, version).build(self.files).payload(size, u64::from(self.files));
        if self.rng.chance(0.5) {
            let specifier = self.one_of(&[">=3.8", ">=3.6,<4", "!=3.0.*,>=2.7"]);
            spec = spec.requires_python(specifier);
        }
        let mut upload = Upload::wheel(&spec);
        if self.weights.backfill > 0 && self.rng.chance(0.3) {
            upload.metadata = None;
        }
        world.upload(name, &upload);
    }

    fn next_of_burst(&mut self, world: &mut World) {
        let Some((name, version)) = self.burst.pop_front() else {
            return;
        };
        let alive = world
            .current(&name)
            .is_some_and(|project| project.status == Status::Active && project.has_release(&version));
        if alive {
            self.file(world, &name, &version);
        } else {
            // The release was removed: the uploader gives up.
            self.burst.clear();
            self.pair(world);
        }
    }

    /// Any project that is as wanted.
    fn project(&mut self, world: &World, wanted: impl Fn(&Project) -> bool) -> Option<String> {
        (0..20).find_map(|_| {
            let name = self.rng.pick(&self.names)?;
            let project = world.current(name)?;
            wanted(project).then(|| project.display_name.clone())
        })
    }

    /// Any release of an active project whose being yanked and quarantined is as wanted.
    fn version(&mut self, world: &World, wanted: impl Fn(bool, bool) -> bool) -> Option<(String, String)> {
        for _ in 0..20 {
            let name = self.project(world, |project| project.status == Status::Active)?;
            let releases = world.current(&name)?.releases();
            let versions: Vec<String> = releases
                .filter(|(_, yanked, quarantined)| wanted(*yanked, *quarantined))
                .map(|(version, _, _)| version.to_owned())
                .collect();
            if let Some(version) = self.rng.pick(&versions) {
                return Some((name, version.clone()));
            }
        }
        None
    }

    fn one_of(&mut self, texts: &[&'static str]) -> &'static str {
        self.rng.pick(texts).copied().unwrap_or_default()
    }
}
