//! CRC32c, the checksum of SCTP. It is linear: what a changed word does to it depends on the word's change and on how many
//! bytes come after, not on what those are. So a port is exchanged without a look at the rest of the packet.

/// The polynomial, its highest power last.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Bits of a packet's length.
const LENGTH_BITS: usize = 16;
/// Groups of four bits in a checksum.
const NIBBLES: usize = u32::BITS as usize / 4;

/// What zero bytes behind a remainder make of it: one byte, two, four and so on; for each of its nibbles and their values.
/// Looked up and not computed, as the kernel's verifier would follow both sides of every bit.
static ZEROS: [[[u32; 16]; NIBBLES]; LENGTH_BITS] = zeros();

const fn zeros() -> [[[u32; 16]; NIBBLES]; LENGTH_BITS] {
    let mut table = [[[0; 16]; NIBBLES]; LENGTH_BITS];
    // x to the power of eight, then of sixteen and so on.
    let (mut power, mut bit) = (1 << (31 - 8), 0);
    while bit < LENGTH_BITS {
        let mut entry: u32 = 0;
        while entry < u32::BITS / 4 * 16 {
            let (nibble, value) = (entry / 16, entry % 16);
            table[bit][nibble as usize][value as usize] = multiply(power, value << (4 * nibble));
            entry += 1;
        }
        power = multiply(power, power);
        bit += 1;
    }
    table
}

/// A product modulo the polynomial.
const fn multiply(one: u32, other: u32) -> u32 {
    let (mut product, mut power, mut bit) = (0, other, 32);
    while bit > 0 {
        bit -= 1;
        if one >> bit & 1 == 1 {
            product ^= power;
        }
        power = power >> 1 ^ if power & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    product
}

/// What the checksum of `length` bytes is changed by (exclusive or) when its first word is changed by `word`, both as
/// little-endian numbers. Lengths are below 65,536.
#[inline(always)]
pub fn change(word: u32, length: u32) -> u32 {
    let mut change = word;
    for (bit, table) in ZEROS.iter().enumerate() {
        if length >> bit & 1 == 1 {
            let mut next = 0;
            for (nibble, values) in table.iter().enumerate() {
                next ^= values[(change >> (4 * nibble) & 15) as usize];
            }
            change = next;
        }
    }
    change
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, as the standard has it.
    fn whole(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 }
            })
        })
    }

    #[test]
    fn the_standards_example() {
        assert_eq!(whole(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn a_changed_word_changes_the_checksum_by_what_is_said(
            bytes in proptest::collection::vec(any::<u8>(), 4..3000),
            new in any::<[u8; 4]>(),
        ) {
            let old = <[u8; 4]>::try_from(&bytes[..4]).unwrap();
            let mut other: Vec<u8> = bytes.clone();
            other[..4].copy_from_slice(&new);
            let word = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
            let length = u32::try_from(bytes.len()).unwrap();
            prop_assert_eq!(whole(&bytes) ^ change(word, length), whole(&other));
        }
    }
}
