//! The world without a server: the log, and every state that follows from it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use strandline_testkit::{
    Event, FileState, Generator, ReplacedUrl, START_MS, Status, Upload, Weights, WheelSpec, World, history,
    metadata_of, normalise,
};

#[test]
fn the_state_computed_from_the_log_is_the_state_kept_up_to_date() {
    let mut world = World::new();
    world.set_holes(0.1, 5);
    let mut generator = Generator::new(7, Weights::journaled());
    let mut kept = Vec::new();
    for _ in 0..500 {
        generator.step(&mut world);
        kept.push((world.serial(), world.state()));
    }
    for (serial, state) in kept {
        assert_eq!(world.state_at(serial), state, "at {serial}");
    }
}

#[test]
fn unjournaled_changes_are_in_the_state_too() {
    let (world, _) = history(3, 30, 800, Weights::default());
    assert_eq!(world.state_at(world.serial()), world.state());
    assert!(world.state().values().any(|project| project.status == Status::Archived));
}

#[test]
fn a_seed_decides_everything() {
    let log = |seed| -> Vec<Event> {
        let (world, _) = history(seed, 20, 300, Weights::default());
        world.events().cloned().collect()
    };
    assert_eq!(log(1), log(1));
    assert_ne!(log(1), log(2));
}

#[test]
fn a_history_has_every_kind_of_event() {
    let (world, _) = history(1, 50, 3000, Weights::default());
    let actions: BTreeSet<&str> = world.events().map(|event| event.action.as_str()).collect();
    for action in [
        "create",
        "new release",
        "remove release",
        "remove project",
        "yank release",
        "unyank release",
        "project quarantined",
        "project quarantine cleared",
        "release quarantined",
        "release quarantine cleared",
        "add Owner bob",
    ] {
        assert!(actions.contains(action), "no `{action}`");
    }
    for prefix in ["add py3 file ", "add source file ", "remove file "] {
        assert!(actions.iter().any(|action| action.starts_with(prefix)), "no `{prefix}`");
    }
}

#[test]
fn releases_may_be_made_again_in_another_spelling() {
    let (world, _) = history(1, 50, 1000, Weights { respell: 100, ..Weights::default() });
    let versions: BTreeSet<_> =
        world.events().filter_map(|event| Some((&event.name, event.version.clone()?))).collect();
    let respelt = |(name, version): &&(&String, String)| versions.contains(&(*name, format!("{version}.0")));
    assert!(versions.iter().filter(respelt).count() > 20);
}

#[test]
fn no_filename_of_a_history_comes_twice() {
    let (world, _) = history(4, 40, 3000, Weights { respell: 20, ..Weights::default() });
    let mut seen = BTreeSet::new();
    for event in world.events().filter(|event| event.action.contains(" file ")) {
        if event.action.starts_with("add ") {
            assert!(seen.insert((normalise(&event.name), &event.action)), "{event:?}");
        }
    }
}

#[test]
fn serials_rise_and_may_have_holes() {
    let mut world = World::new();
    world.set_holes(0.5, 1);
    for n in 0..100 {
        world.release("six", &format!("1.{n}"));
    }
    let serials: Vec<u64> = world.events().map(|event| event.serial).collect();
    assert!(serials.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(serials.windows(2).any(|pair| pair[0] + 1 < pair[1]));
}

#[test]
fn a_first_upload_writes_three_rows_and_a_later_one_fewer() {
    let mut world = World::new();
    world.release("Zope.Interface", "1.0");
    let wheel = WheelSpec::new("Zope.Interface", "1.0").build(2);
    world.upload("zope-interface", &Upload::wheel(&wheel));
    let rows: Vec<_> =
        world.events().map(|event| (event.name.as_str(), event.version.as_deref(), event.action.as_str())).collect();
    assert_eq!(
        rows,
        [
            ("Zope.Interface", None, "create"),
            ("Zope.Interface", Some("1.0"), "new release"),
            ("Zope.Interface", Some("1.0"), "add py3 file zope_interface-1.0-py3-none-any.whl"),
            ("Zope.Interface", Some("1.0"), "add py3 file zope_interface-1.0-2-py3-none-any.whl"),
        ]
    );
}

#[test]
fn removal_cascades_in_one_row_and_a_project_may_come_back_in_another_spelling() {
    let mut world = World::new();
    world.release("a__b", "1.0");
    let before = world.release("a__b", "2.0");
    let removed = world.remove_project("A-B");
    assert_eq!(removed, before + 1);
    assert!(world.state().is_empty());
    world.release("A.b", "3.0");
    let project = &world.state()["a-b"];
    assert_eq!((project.display_name.as_str(), &project.versions[..]), ("A.b", &["3.0".to_owned()][..]));
    assert_eq!(world.state_at(before)["a-b"].versions, ["1.0", "2.0"]);

    world.release("A.b", "4.0");
    let last = world.remove_release("A.b", "4.0");
    assert_eq!(world.state()["a-b"].versions, ["3.0"]);
    assert_eq!(
        world.events().last().map(|event| (event.serial, event.action.as_str())),
        Some((last, "remove release"))
    );
}

#[test]
fn a_yank_is_of_the_whole_release_and_outlives_quarantine() {
    let mut world = World::new();
    world.release("six", "1.0");
    world.upload("six", &Upload::raw("six-1.0.tar.gz", "1.0", "x"));
    world.yank("six", "1.0", Some("bad"));
    let yanks = |world: &World| -> Vec<_> {
        let project = world.project("six").unwrap();
        project.files.iter().map(|file| file.yanked.clone()).collect()
    };
    assert_eq!(yanks(&world), [Some("bad".to_owned()), Some("bad".to_owned())]);
    world.quarantine("six");
    let project = world.project("six").unwrap();
    assert_eq!((project.status, project.files.len(), project.versions.len()), (Status::Quarantined, 0, 0));
    world.clear_quarantine("six");
    assert_eq!(yanks(&world).len(), 2);
    world.quarantine_release("six", "1.0");
    assert_eq!(yanks(&world), []);
    world.clear_release_quarantine("six", "1.0");
    assert_eq!(yanks(&world), [Some("bad".to_owned()), Some("bad".to_owned())]);
    world.unyank("six", "1.0");
    assert_eq!(yanks(&world), [None, None]);
}

#[test]
fn a_role_event_moves_the_serial_and_nothing_else() {
    let mut world = World::new();
    let released = world.release("six", "1.0");
    let role = world.role("six", "add Owner bob");
    let project = world.project("six").unwrap();
    assert_eq!((project.serial, project.page_serial), (role, released));
    assert_eq!(project.files, world.project_at("six", released).unwrap().files);
    assert_eq!(world.list_seen(world.now_ms())["six"].1, role);
}

#[test]
fn a_page_says_its_old_serial_after_a_role_event_until_it_is_purged_or_a_day_old() {
    let mut world = World::new();
    let released = world.release("six", "1.0");
    let role = world.role("six", "add Owner bob");
    let written_ms = world.events().last().unwrap().visible_ms;
    let says = |world: &World, at_ms| world.project_seen("six", at_ms).unwrap().page_serial;
    let day = 24 * 60 * 60 * 1000;
    assert_eq!(says(&world, written_ms + day - 1), released);
    assert_eq!(says(&world, written_ms + day), role);

    // Archiving is in no log, and purges the page.
    let again = world.role("six", "remove Owner bob");
    assert_eq!(says(&world, world.now_ms()), released);
    world.archive("six");
    assert_eq!(says(&world, world.now_ms()), again);

    world.set_page_age(Duration::ZERO);
    let last = world.role("six", "add Owner bob");
    assert_eq!(says(&world, world.now_ms()), last);
}

#[test]
fn files_are_ordered_by_version_then_filename() {
    let mut world = World::new();
    for version in ["1.10", "1.9", "1.9rc1", "1!0.1", "not a version"] {
        world.upload("six", &Upload::raw(&format!("six-{version}.tar.gz"), version, version.to_owned()));
    }
    let versions = world.project("six").unwrap().versions;
    assert_eq!(versions, ["not a version", "1.9rc1", "1.9", "1.10", "1!0.1"]);
}

#[test]
fn a_late_transaction_is_seen_after_higher_serials_and_never_out_of_order_in_its_project() {
    let mut world = World::new();
    world.release("six", "1.0");
    world.advance(Duration::from_secs(60));
    let before = world.serial();
    world.delay_next(Duration::from_secs(5));
    let late = world.release("six", "2.0");
    let written_ms = world.now_ms() - 1000;
    let same_project = world.role("six", "add Owner bob");
    let other = world.release("idna", "1.0");
    let now_ms = world.now_ms();

    assert_eq!(world.serial_seen(now_ms), other);
    let seen: Vec<u64> = world.changelog(before, 100, now_ms).iter().map(|event| event.serial).collect();
    assert_eq!(seen, [other - 2, other - 1, other]);
    assert_eq!(world.project_seen("six", now_ms).unwrap().versions, ["1.0"]);

    let then_ms = written_ms + 5000;
    assert!(world.project_seen("six", then_ms - 1).unwrap().serial < late);
    assert_eq!(world.project_seen("six", then_ms).unwrap().serial, same_project);
    assert_eq!(world.changelog(before, 100, then_ms).len(), 6);
    assert_eq!(world.list_seen(then_ms)["six"].1, same_project);
    assert_eq!(world.project_at("six", late).unwrap().versions, ["1.0", "2.0"]);
}

#[test]
fn one_serial_separates_the_files_of_a_pair() {
    let mut world = World::new();
    for version in ["1.0", "1.1"] {
        let pair = world.release_pair("Base", "Dependent", version);
        assert_eq!(pair.base_serial + 1, pair.dependent_serial);
        let file = world.project("dependent").unwrap().files.pop().unwrap();
        let metadata = world.stored(&format!("{}.metadata", file.url_path)).unwrap();
        let wanted = format!("Requires-Dist: base=={version}\n");
        assert!(String::from_utf8_lossy(&metadata).contains(&wanted));
        let between = world.project_at("dependent", pair.base_serial);
        assert!(between.is_none_or(|project| !project.versions.iter().any(|known| known == version)));
    }
}

#[test]
fn a_replaced_file_keeps_its_url_or_not() {
    let mut world = World::new();
    let serial = world.upload("six", &Upload::raw("six-1.0.tar.gz", "1.0", "old"));
    let old = world.project("six").unwrap().files.remove(0);
    assert_eq!(world.replace_file("six", "six-1.0.tar.gz", "new", ReplacedUrl::Same), serial);
    let new = world.project("six").unwrap().files.remove(0);
    assert_eq!(new.url_path, old.url_path);
    assert_ne!(new.sha256, old.sha256);
    assert_eq!(world.stored(&old.url_path).unwrap(), "new");
    world.replace_file("six", "six-1.0.tar.gz", "newest", ReplacedUrl::New);
    let newest = world.project("six").unwrap().files.remove(0);
    assert_ne!(newest.url_path, old.url_path);
    assert_eq!(world.stored(&old.url_path).unwrap(), "new");
    assert_eq!(world.stored(&newest.url_path).unwrap(), "newest");
}

#[test]
fn metadata_is_put_beside_old_wheels_without_a_row() {
    let mut world = World::new();
    let wheel = WheelSpec::new("six", "1.0");
    world.upload("six", &Upload { metadata: None, ..Upload::wheel(&wheel) });
    let serial = world.upload("six", &Upload::raw("six-1.0.tar.gz", "1.0", "sdist"));
    let old = world.project("six").unwrap();
    assert!(old.files.iter().all(|file| file.core_metadata.is_none()));
    let path = format!("{}.metadata", old.files[0].url_path);
    assert_eq!(world.stored(&path), None);
    assert_eq!(world.backfill_metadata("six"), serial);
    assert_eq!(world.stored(&path).unwrap(), wheel.metadata());
    let mut new = world.project("six").unwrap();
    assert_eq!(world.events_of("six").last().unwrap().serial, serial);
    assert!(new.files[0].core_metadata.take().is_some());
    assert_eq!(new, old, "nothing else has changed");
}

#[test]
fn a_display_name_may_be_spelled_otherwise_without_a_row() {
    let mut world = World::new();
    let serial = world.release("zope.interface", "1.0");
    assert_eq!(world.respell_project("Zope-Interface"), serial);
    let state = world.project("zope-interface").unwrap();
    assert_eq!((state.display_name.as_str(), state.serial), ("Zope-Interface", serial));
    assert!(world.events().all(|event| event.name == "zope.interface"));
    world.release("zope.interface", "2.0");
    assert_eq!(world.events().last().unwrap().name, "Zope-Interface", "later rows have the new spelling");
}

#[test]
fn a_history_of_everything_changes_much_without_a_row() {
    let (mut world, mut generator) = history(1, 50, 0, Weights::everything());
    let mut changed = BTreeSet::new();
    for _ in 0..500 {
        let before = world.state();
        if !generator.step(&mut world).is_empty() {
            continue;
        }
        for (name, state) in world.state() {
            let old = &before[&name];
            let metadata = |files: &[FileState]| files.iter().filter(|file| file.core_metadata.is_some()).count();
            changed.extend((state.status != old.status).then_some("status"));
            changed.extend((state.display_name != old.display_name).then_some("display name"));
            changed.extend((metadata(&state.files) > metadata(&old.files)).then_some("metadata"));
        }
    }
    assert_eq!(changed, BTreeSet::from(["display name", "metadata", "status"]));
}

#[test]
fn upload_times_are_written_as_python_does() {
    let mut world = World::new();
    world.release("six", "1.0");
    world.set_time(START_MS - 1);
    world.set_time(1_709_164_800_120);
    world.release("six", "2.0");
    let times: Vec<_> = world.project("six").unwrap().files.into_iter().map(|file| file.upload_time).collect();
    assert_eq!(times, ["2023-11-14T22:13:20.000000Z", "2024-02-29T00:00:00.120000Z"]);
}

#[test]
fn a_synthetic_wheel_holds_its_metadata_and_is_always_the_same() {
    let wheel = WheelSpec::new("Zope.Interface", "1.0").requires("six>=1").requires_python(">=3.8");
    assert_eq!(metadata_of(&wheel.bytes()), Some(wheel.metadata()));
    assert_eq!(wheel.bytes(), wheel.clone().bytes());
    assert_ne!(wheel.bytes(), wheel.clone().payload(64, 1).bytes());
    let text = String::from_utf8(wheel.metadata()).unwrap();
    assert!(text.contains("\nName: Zope.Interface\n") && text.contains("\nRequires-Python: >=3.8\n"));
}

#[test]
fn a_directory_of_wheels_is_uploaded_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let wheel = WheelSpec::new("Zope.Interface", "1.0").requires_python(">=3.8");
    let file = |name: &str, bytes: &[u8]| {
        let mut builder = tempfile::Builder::new();
        let mut file = builder.prefix(name).rand_bytes(0).tempfile_in(&directory).unwrap();
        file.write_all(bytes).unwrap();
        file
    };
    let kept = [file(&wheel.filename(), &wheel.bytes()), file("six-1.16.0.tar.gz", b"sdist")];
    let mut world = World::new();
    let paths = world.add_wheels_from(directory.path()).unwrap();
    assert_eq!(world.stored(&paths[0]).unwrap(), "sdist");
    assert_eq!(world.stored(&format!("{}.metadata", paths[1])).unwrap(), wheel.metadata());
    let project = world.project("zope-interface").unwrap();
    assert_eq!(project.display_name, "Zope.Interface");
    assert_eq!(project.files[0].requires_python.as_deref(), Some(">=3.8"));
    assert_eq!(world.project("six").unwrap().versions, ["1.16.0"]);

    let bad = file("six-2.0-py3-none-any.whl", b"no zip");
    let error = world.add_wheels_from(directory.path()).unwrap_err();
    assert!(error.to_string().ends_with("six-2.0-py3-none-any.whl`: it holds no METADATA"), "{error}");
    drop((kept, bad));
}

#[test]
fn metadata_is_read_out_of_a_compressed_wheel() {
    let text = b"Metadata-Version: 2.1\nName: six\nRequires-Python: >=3\n\nlong text\n";
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).unwrap();
    let packed = encoder.finish().unwrap();
    let name = b"six-1.dist-info/METADATA";
    let sizes = [0_u32, 0, u32::try_from(packed.len()).unwrap(), u32::try_from(text.len()).unwrap()];
    // The reader looks at the method, the sizes and the offset only; all else stays zero.
    let mut common = vec![20, 0, 0, 0, 8, 0];
    common.extend(sizes.iter().flat_map(|word| word.to_le_bytes()));
    common.extend([u8::try_from(name.len()).unwrap(), 0, 0, 0]);
    let mut wheel = [b"PK\x03\x04", &common[..], name, &packed].concat();
    let directory = u32::try_from(wheel.len()).unwrap();
    wheel.extend([b"PK\x01\x02\x14\x00", &common[..], &[0; 14], name].concat());
    wheel.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0\0\0\0\0");
    wheel.extend(directory.to_le_bytes());
    wheel.extend([0, 0]);
    assert_eq!(metadata_of(&wheel).as_deref(), Some(&text[..]));
    assert_eq!(metadata_of(&wheel[..wheel.len() - 5]), None);
}
