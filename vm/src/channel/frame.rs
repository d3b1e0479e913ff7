//! What a command's stream is made of: one byte of kind, four of length (big endian), and that many bytes.

use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The first frame: what to run, as JSON.
    Run,
    Stdin,
    StdinEnd,
    Stdout,
    Stderr,
    /// The last frame: how it ended, as JSON.
    End,
}

const KINDS: [Kind; 6] = [Kind::Run, Kind::Stdin, Kind::StdinEnd, Kind::Stdout, Kind::Stderr, Kind::End];
/// Of one frame. Writers stay far below.
const MOST: usize = 1 << 20;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// As a shell says it: 128 and the signal's number for a program that a signal ended.
    Code(i32),
    /// It could not be started.
    NotRun(String),
}

pub fn write(to: &mut impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let number = KINDS.iter().position(|k| *k == kind).unwrap_or_default();
    let mut frame = vec![u8::try_from(number).map_err(io::Error::other)?];
    frame.extend(length.to_be_bytes());
    frame.extend(bytes);
    to.write_all(&frame)
}

/// None: the stream ended between two frames.
pub fn read(from: &mut impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut kind = [0];
    // Unlike `read`, this goes on after a signal: one of a child's end interrupts sockets that have a time limit.
    match from.read_exact(&mut kind) {
        Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let kind = *KINDS.get(usize::from(kind[0])).ok_or_else(|| invalid("a frame of no known kind"))?;
    if length > MOST {
        return Err(invalid("a frame that is too long"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(Some((kind, bytes)))
}
