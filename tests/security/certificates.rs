//! Certificates that one server was shown say nothing of another.
