//! The reading end: buffered, mapped on demand.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::OnceLock;

use ghost_sys::file::MappedFile;

use crate::GhostRead;

/// What one read takes from the file, unless more is asked for.
const READ_BYTES: usize = 256 << 10;

/// An image that is being read.
#[derive(Debug)]
pub(crate) struct ImageReader {
    file: BufReader<File>,
    map: OnceLock<Option<MappedFile>>,
}

impl ImageReader {
    pub(crate) fn new(file: File) -> Self {
        Self { file: BufReader::with_capacity(READ_BYTES, file), map: OnceLock::new() }
    }
}

impl Read for ImageReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into)
    }
}

impl GhostRead for ImageReader {
    fn as_mapped(&self) -> Option<&[u8]> {
        self.map.get_or_init(|| MappedFile::new(self.file.get_ref()).ok()).as_deref()
    }
    fn as_file(&self) -> Option<&File> {
        Some(self.file.get_ref())
    }
}
