//! Data sets: the embedded review generator, readers for the usual file formats, downloads.
