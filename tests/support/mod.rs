//! What the tests share: the directory of a mirror, servers, tools of the machine, and what upstream and readers say.

pub(crate) mod one_project;
pub(crate) mod readers;
pub(crate) mod server;
pub(crate) mod tools;
pub(crate) mod truth;
pub(crate) mod world;
