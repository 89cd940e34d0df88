//! What one target may keep in memory, and for how long.
