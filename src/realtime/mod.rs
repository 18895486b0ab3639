//! Live transcription: OpenAI's Realtime protocol for transcription sessions.
//!
//! Three layers, each provable by itself:
//!
//! 1. [`socket`]: JSON over a WebSocket ⇄ typed events ([`events`], [`settings`]).
//! 2. [`session`]: a pure state machine of buffer, turns, items and commits; no I/O and no clock. Below it [`input`] (bytes →
//!    samples), [`turns`] (voice → turns) and [`agreement`] (which words will stay).
//! 3. [`windows`]: the session's passes into the scheduler, one in flight a session.

pub mod agreement;
pub mod events;
pub mod input;
pub mod secrets;
pub mod session;
pub mod settings;
pub mod socket;
pub mod turns;

pub mod windows;
