//! The HTTP side as clients meet it: a scripted job runner behind the real router, called in memory and over
//! sockets. No model, no engine.
#![allow(clippy::unwrap_used, clippy::missing_docs_in_private_items, reason = "tests")]

mod answers;
mod keys;
mod realtime;
mod refusals;
mod routes;
mod sockets;
mod speech;
mod streams;
mod support;
mod tls;
