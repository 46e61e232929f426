//! What stands between the mirror and upstream: proxies, TLS, private networks; and which index is meant at all.

use std::fs;

use serde_json::{Value, json};
use strandline_testkit::{Response, World as Index};

use crate::support::server::Nginx;
use crate::support::tools::tool;
use crate::support::world::{Run, World, text, wheel};

/// A host that no name server is asked for: its label is longer than DNS has.
fn far_host() -> String {
    format!("{}.example", "x".repeat(64))
}

/// A mirror of an upstream that is somewhere else, and reached through a proxy only: the fake index plays both.
struct Proxied {
    world: World,
    host: String,
}

impl Proxied {
    fn new() -> Self {
        let mut index = Index::new();
        index.upload("six", &wheel("six", "1.0", 1));
        let (world, host) = (World::new(index, ""), far_host());
        world.upstream.file_base(&format!("http://{host}"));
        let configuration = format!(
            "store = \"store\"\n[mirror.pypi]\nupstream = \"http://{host}/simple/\"\nprojects = [\"six\"]\ndrain = \"0s\"\non-broken = \"freeze\"\n"
        );
        fs::write(world.path("strandline.toml"), configuration).unwrap();
        Self { world, host }
    }

    fn sync(&self) -> Run {
        let proxy = self.world.upstream.url();
        let mut command = self.world.command(&["sync"]);
        World::run_command(command.env("http_proxy", proxy))
    }
}

#[test]
fn proxies_of_the_environment_are_used() {
    let proxied = Proxied::new();
    let Proxied { world, host } = &proxied;
    let run = world.run(&["sync"]).ended(1);
    assert_eq!(world.upstream.counts().total(), 0, "without a proxy there is no way: {}", run.err);
    proxied.sync().ended(0);
    for path in world.upstream.requested().keys() {
        assert_eq!(world.upstream.last_header(path, "host").as_deref(), Some(host.as_str()), "{path}");
    }
    assert_eq!(world.upstream.counts().file, 1);
}

/// A page of an upstream elsewhere cannot make this machine ask its own network, by a URL or by a redirect.
#[test]
fn an_upstream_elsewhere_cannot_lead_inside() {
    let proxied = Proxied::new();
    let world = &proxied.world;
    proxied.sync().ended(0);
    let (live, log) = (world.live(), world.log());

    // Something inside that would answer.
    let inside = strandline_testkit::Upstream::start(Index::new()).unwrap();
    world.upstream.world().upload("six", &wheel("six", "2.0", 1));
    let state = world.upstream.world().project("six").unwrap();
    let file = state.files.iter().find(|file| file.version == "2.0").unwrap();
    let json = "application/vnd.pypi.simple.v1+json";
    let page = json!({
        "meta": { "api-version": "1.4", "_last-serial": state.serial }, "name": "six", "versions": state.versions,
        "files": [{
            "filename": file.filename, "url": format!("{}packages/{}", inside.url(), file.filename),
            "hashes": { "sha256": file.sha256 }, "size": file.size,
        }],
    });
    let named = Response::new(200).header("Content-Type", json).body(page.to_string());
    let moved = |path: &str| Response::new(302).header("Location", &format!("{}{path}", inside.url()));
    for (path, answer) in [
        ("/simple/six/", moved("simple/six/")),
        (file.url_path.as_str(), moved("packages/six")),
        (file.url_path.as_str(), Response::new(302).header("Location", "http://localhost./")),
    ] {
        world.upstream.override_path(path, answer);
        let inside_words =
            &["private network, where upstream itself is not", "six", "Readers see what they saw before"];
        proxied.sync().ended(1).says(inside_words);
        assert_eq!((world.live(), world.log()), (live.clone(), log.clone()), "{path}");
        assert_eq!(world.incoming(), <[String; 0]>::default(), "{path}");
        world.upstream.remove_override(path);
    }
    // A file that is named inside is skipped alone.
    world.upstream.override_path("/simple/six/", named);
    proxied.sync().ended(0);
    let said = world.done(&["status"]);
    assert!(said.contains("skipped    six: 1 of its page") && said.contains("private network"), "{said}");
    assert!(world.done(&["show", "pypi", "six"]).contains("not shown: its digest or its URL cannot be used"));
    world.upstream.remove_override("/simple/six/");
    assert_eq!(inside.counts().total(), 0, "it was asked");
    proxied.sync().ended(0);
    assert_ne!(world.live(), live);
}

#[test]
fn roots_of_trust_come_from_the_environment() {
    let mut index = Index::new();
    index.upload("six", &wheel("six", "1.0", 1));
    let world = World::new(index, "");
    let nginx = Nginx::with_tls(&world, &world.upstream.url());
    world.upstream.file_base(&format!("https://{}", nginx.at));
    let configuration = format!(
        "store = \"store\"\n[mirror.pypi]\nupstream = \"https://{}/simple/\"\nprojects = [\"six\"]\n",
        nginx.at
    );
    fs::write(world.path("strandline.toml"), configuration).unwrap();

    let mut without = world.command(&["sync"]);
    let run = World::run_command(without.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR"));
    run.ended(1).says(&["certificate", &format!("https://{}/simple/six/", nginx.at)]);
    assert_eq!((world.upstream.counts().total(), world.live().len()), (0, 0));

    let mut with = world.command(&["sync"]);
    World::run_command(with.env("SSL_CERT_FILE", world.path("ca.pem"))).ended(0);
    assert!(world.live()["simple/six/index.html"].windows(3).any(|bytes| bytes == b"1.0"));
    assert_eq!(world.upstream.counts().file, 1);
}

/// Without `upstream`, the index is the one in the configuration of the real pip.
#[test]
fn the_index_is_the_one_of_pips_configuration() {
    let mut index = Index::new();
    index.upload("six", &wheel("six", "1.0", 1));
    let world = World::new(index, "");
    fs::write(world.path("strandline.toml"), "store = \"store\"\n[mirror.pypi]\nprojects = [\"six\"]\n").unwrap();
    let upstream = world.upstream.simple_url();
    fs::write(world.path("pip.conf"), format!("[global]\nindex-url = {upstream}\n")).unwrap();
    let mut command = world.command(&["sync"]);
    command.env("PATH", tool("venv/bin")).env("PIP_CONFIG_FILE", world.path("pip.conf"));
    World::run_command(&mut command).ended(0);
    let status: Value = serde_json::from_str(&world.done(&["status", "--json"])).unwrap();
    assert_eq!(text(&status["mirrors"][0]["upstream"]), upstream);
}
