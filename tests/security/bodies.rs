//! Servers that send much and hang: whatever they hold can be taken from them.
