//! What the tests share: a store with its view, the two servers, a client, and the table of requests.

pub(crate) mod http;
pub(crate) mod servers;
pub(crate) mod table;
pub(crate) mod world;
