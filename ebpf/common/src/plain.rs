//! Keys and values of maps as bytes.

/// Gives a type its bytes. The second column is its size, which has to leave no room for padding.
macro_rules! plain {
    ($($type:ty: $size:literal),* $(,)?) => { $(
        const _: () = assert!(size_of::<$type>() == $size);

        impl $type {
            /// The bytes that the map holds.
            pub const fn to_bytes(self) -> [u8; $size] {
                // SAFETY: a repr(C) structure of integers; its fields fill the asserted size, so there is no padding.
                unsafe { core::mem::transmute(self) }
            }

            /// The value of bytes that the map holds.
            pub const fn from_bytes(bytes: [u8; $size]) -> Self {
                // SAFETY: every bit pattern is a value of a repr(C) structure of integers, and the sizes are equal.
                unsafe { core::mem::transmute(bytes) }
            }
        }
    )* };
}
pub(crate) use plain;
