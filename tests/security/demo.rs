//! What lies in the temporary folder before the program starts.
