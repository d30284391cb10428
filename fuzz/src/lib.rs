//! What several fuzz targets need: objects out of bytes.

pub mod entries;
