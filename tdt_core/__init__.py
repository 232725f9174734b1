"""The science of the theranostic digital twin: pure functions on numpy and xarray. No I/O, no clock, no global state."""
