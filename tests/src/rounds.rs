//! How many rounds a test of chance plays.

/// `count`, or a tenth of it in a VM (`ORLOP_EMULATED`), where a round takes ten times as long and adds the other kernel
/// alone: the whole count is the host's.
pub fn rounds(count: u64) -> u64 {
    if std::env::var_os("ORLOP_EMULATED").is_some() {
        count / 10
    } else {
        count
    }
}
