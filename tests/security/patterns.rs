//! Patterns made to be slow, and names made for them: the process answers.
