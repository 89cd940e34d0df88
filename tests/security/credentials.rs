//! Servers that write our own credentials back: nobody reads them.
