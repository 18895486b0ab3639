//! The bindings of whisper-rs-sys 0.15.0 over whisper.cpp with this project's patches.
#![allow(
    non_upper_case_globals,
    non_camel_case_types,
    non_snake_case,
    missing_docs,
    unnecessary_transmutes,
    unsafe_code,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code, as published"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

unsafe extern "C" {
    /// Names of the patches that were compiled in, separated by spaces. Missing in any other build of whisper.cpp, so a
    /// program that calls it does not link there.
    pub safe fn whisper_backend_patches() -> *const core::ffi::c_char;
}

#[cfg(test)]
#[path = "../build/apply.rs"]
mod apply;
