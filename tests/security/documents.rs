//! Documents made to be slow: no other target waits for their translation.
