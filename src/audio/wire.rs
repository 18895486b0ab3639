//! What the server and a decoder child say to each other: one order with an open file, then frames
//! ([`crate::process::frame`]) of which only blocks carry samples.

use std::fs::File;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AudioError, AudioInfo, AudioLimits, ChannelMode};

/// What to decode, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) limits: AudioLimits,
    pub(super) mode: ChannelMode,
    /// Bytes of the recording.
    pub(super) len: u64,
    /// What the sender calls it; helps to guess the format.
    pub(super) file_name: Option<String>,
    /// Most memory beyond what the program itself takes.
    pub(super) memory_bytes: u64,
    /// Most processor time in all.
    pub(super) cpu: Duration,
}

/// From a decoder child to the server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromDecoder {
    /// What the recording is; comes first.
    Opened(AudioInfo),
    /// Samples of one channel follow; those of the last one complete a block.
    Samples { channel: u16, channels: u16 },
    /// The recording has ended.
    End { skipped_packets: u64 },
    /// It cannot be decoded, or not further.
    Failed(AudioError),
}

/// The server's end of a child's input.
#[cfg(unix)]
pub(super) type Control = std::os::unix::net::UnixStream;

/// Hands a recording to a child that waits for one.
#[cfg(unix)]
pub(super) fn send_order(mut control: &Control, order: &Order, recording: &File) -> io::Result<()> {
    use std::os::fd::AsFd;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [recording.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("no room for a file"));
    }
    // A byte of its own: whoever sends a file must send something beside it.
    sendmsg(
        control,
        &[io::IoSlice::new(&[0])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    crate::process::frame::write_frame(&mut control, order, &[])
}

/// The child's side of [`send_order`]; `None` when the server has no recording any more.
#[cfg(unix)]
pub(super) fn receive_order(mut control: &Control) -> io::Result<Option<(Order, File)>> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = loop {
        let mut into = [io::IoSliceMut::new(&mut byte)];
        match recvmsg(control, &mut into, &mut ancillary, RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let recording = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    let Some(recording) = recording else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "an order without a recording",
        ));
    };
    let order = crate::process::frame::read_frame(&mut control)?;
    Ok(order.map(|(order, _)| (order, File::from(recording))))
}
