//! Enum values in JSON: by name, or by number if this version does not know the name, as the protobuf JSON mapping
//! requires.

use serde::{Serialize, Serializer};

/// The number of an enum value.
pub(crate) struct OpenEnum<E>(i32, std::marker::PhantomData<E>);

impl<E> OpenEnum<E> {
    pub(crate) fn new(number: i32) -> Self {
        Self(number, std::marker::PhantomData)
    }
}

impl<E: Serialize + TryFrom<i32>> Serialize for OpenEnum<E> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match E::try_from(self.0) {
            Ok(known) => known.serialize(serializer),
            Err(_) => serializer.serialize_i32(self.0),
        }
    }
}
