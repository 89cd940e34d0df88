//! Servers that forge families of ours or of Prometheus: none of them passes.
