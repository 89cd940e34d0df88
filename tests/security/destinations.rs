//! Where targets may point: addresses, names, the service of somebody else.
