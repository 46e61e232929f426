//! Serves a synthetic index on loopback until stdin closes:
//! `fake_index PORT PROJECTS FILES BYTES [EVENTS-PER-SECOND [WHEELS]]`.
//!
//! Each project has one release of FILES wheels with BYTES of payload, all kept in memory. WHEELS is a directory of real
//! wheels to serve too. Port 0 is any free one. The only line on stdout is the URL.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::Path;

use strandline_testkit::{Generator, Upload, Upstream, Weights, WheelSpec, World};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, projects, files, bytes, rest @ ..] = &arguments[..] else {
        return Err("usage: fake_index PORT PROJECTS FILES BYTES [EVENTS-PER-SECOND [WHEELS]]".into());
    };
    let (files, bytes): (u32, usize) = (files.parse()?, bytes.parse()?);
    let mut world = World::new();
    for n in 0..projects.parse()? {
        let name = format!("Project_{n:05}");
        for build in 1..=files {
            let wheel = WheelSpec::new(&name, "1.0").build(build).payload(bytes, n);
            world.upload(&name, &Upload::wheel(&wheel));
        }
    }
    if let Some(wheels) = rest.get(1) {
        world.add_wheels_from(Path::new(wheels))?;
    }
    let upstream = Upstream::start_on(world, port.parse()?)?;
    let rate: f64 = rest.first().map_or(Ok(0.0), |rate| rate.parse())?;
    if rate > 0.0 {
        upstream.run_at(rate, Generator::new(1, Weights::default()))?;
    }
    writeln!(io::stdout(), "{}", upstream.url())?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
