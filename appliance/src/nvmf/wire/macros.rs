//! The three macros that keep the wire types short: layout assertions, zeroed defaults and enums.

/// Asserts the size of a wire structure, and the offsets of named fields, at compile time.
macro_rules! assert_layout {
    ($type:ty, $size:expr $(, $field:ident @ $offset:expr)* $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$type>() == $size);
            assert!(core::mem::align_of::<$type>() == 1);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}

/// Gives wire structures an all-zero `Default`, because reserved fields must be zero.
macro_rules! zeroed_default {
    ($($type:ty),+ $(,)?) => {
        $(impl Default for $type {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        })+
    };
}

/// Defines an enum over an unsigned integer with `TryFrom` and `From` between the two.
macro_rules! wire_enum {
    (
        $(#[$attr:meta])*
        pub enum $name:ident: $repr:ty {
            $($(#[$variant_attr:meta])* $variant:ident = $value:expr,)+
        }
    ) => {
        $(#[$attr])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($repr)]
        pub enum $name {
            $($(#[$variant_attr])* $variant = $value,)+
        }

        impl $name {
            /// Every value this type knows, in the order of the specification's table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }

        impl TryFrom<$repr> for $name {
            type Error = $crate::nvmf::wire::UnknownValue;

            fn try_from(value: $repr) -> Result<Self, $crate::nvmf::wire::UnknownValue> {
                match value {
                    $(v if v == $value => Ok(Self::$variant),)+
                    other => Err($crate::nvmf::wire::UnknownValue {
                        what: stringify!($name),
                        value: u32::from(other),
                    }),
                }
            }
        }

        impl From<$name> for $repr {
            fn from(value: $name) -> Self {
                value as Self
            }
        }
    };
}

pub(crate) use {assert_layout, wire_enum, zeroed_default};
