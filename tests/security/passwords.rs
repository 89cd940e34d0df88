//! Wrong passwords without end: a good one is heard.
