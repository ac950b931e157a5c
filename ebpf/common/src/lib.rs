//! What the agent and the eBPF programs agree on: keys and values of the Service maps, and how a backend is chosen.
//! No `std`, and no map is touched in here: the programs and the tests bring their own behind [`lookup::World`].
//!
//! Addresses and ports are kept as they stand on the wire. Constructors and getters translate; nobody else swaps bytes.
#![no_std]

pub mod carried;
pub mod crc;
pub mod flow;
pub mod fragment;
mod limit;
pub mod lookup;
pub mod maps;
mod plain;
pub mod pods;
pub mod record;
pub mod stream;
