//! Flags → configuration → application → exit code.

fn main() {}
