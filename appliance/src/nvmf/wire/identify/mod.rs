//! Data structures of Identify (Base section 5.17.2; NVM section 4.1.5).

mod controller;
mod lists;
mod namespace;

pub use controller::{CommandSetController, IdentifyController, PowerState, bits as controller_bits};
pub use lists::{
    CommandSetVectors, ControllerList, DescriptorType, NamespaceDescriptorHeader, NamespaceDescriptors,
    NamespaceDescriptorsError, NamespaceIds, NamespaceList,
};
pub use namespace::{
    CommandSetNamespace, IdentifyNamespace, IndependentNamespace, LbaFormat, bits as namespace_bits,
};

/// Bytes of every structure that Identify returns.
pub const IDENTIFY_BYTES: usize = 4096;
