//! Keys and values of the maps that the agent writes and the eBPF programs read. No `std`.
#![no_std]
