//! Clients that pipeline, stall or ask without end: the health checks are answered.
