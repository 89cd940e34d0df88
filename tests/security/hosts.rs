//! Names of the service that a browser was led to: pages are shown to those only that are ours.
