//! Devices, buffers and the caching allocator with exact peak accounting.
