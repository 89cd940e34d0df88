//! Names whose zone does not answer: all others are resolved.
