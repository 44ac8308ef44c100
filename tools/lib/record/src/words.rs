//! Enums whose values are words of a fixed list, each word in one place.

/// Make an enum whose values are words in JSON, on command lines and for people. The text behind its name is the field that is
/// named where a word is none of them.
///
/// ```
/// record::words! {
///     /// Who may enter.
///     pub enum Door, "door" {
///         /// Everybody.
///         Open = "open",
///         /// Nobody.
///         Shut = "shut",
///     }
/// }
/// assert_eq!("shut".parse(), Ok(Door::Shut));
/// assert_eq!("ajar".parse::<Door>(), Err(r#"door: one of ["open", "shut"], this is "ajar""#.to_string()));
/// ```
#[macro_export]
macro_rules! words {
    (
        $(#[$about:meta])*
        $public:vis enum $name:ident, $field:literal { $($(#[$what:meta])* $value:ident = $word:literal,)+ }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $public enum $name { $($(#[$what])* $value,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$value,)+];

            /// Its word.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$value => $word,)+ }
            }
        }

        impl $crate::words::Word for $name {
            fn words() -> ::std::vec::Vec<&'static str> {
                Self::ALL.iter().map(|value| value.name()).collect()
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = ::std::string::String;
            fn from_str(text: &str) -> ::std::result::Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|value| value.name() == text).ok_or_else(|| {
                    let words = <Self as $crate::words::Word>::words();
                    ::std::format!("{}: one of {words:?}, this is {text:?}", $field)
                })
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> ::std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> ::std::result::Result<Self, D::Error> {
                let text = <::std::string::String as ::serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(<D::Error as ::serde::de::Error>::custom)
            }
        }
    };
}

/// An enum that [`words!`](crate::words!) made.
pub trait Word: Copy + std::str::FromStr<Err = String> + Send + Sync + 'static {
    /// The words of all its values, in their order.
    fn words() -> Vec<&'static str>;
}

#[cfg(test)]
mod tests {
    crate::words! {
        /// For these tests.
        enum Word, "some.field" {
            /// The first.
            One = "one",
            /// Its word is not its name in small letters.
            TwoOfThem = "2",
        }
    }

    #[test]
    fn a_word_is_its_value_and_no_other_word_is_any() {
        for value in Word::ALL {
            let json = format!("{:?}", value.name());
            assert_eq!(serde_json::to_string(value).unwrap(), json);
            assert_eq!(serde_json::from_str::<Word>(&json).unwrap(), *value);
            assert_eq!(format!("{value}"), value.name());
        }
        for other in ["\"One\"", "\"two\"", "\"\"", "\"one \""] {
            let error = serde_json::from_str::<Word>(other).unwrap_err().to_string();
            assert!(error.starts_with("some.field: one of [\"one\", \"2\"], this is "), "{error}");
        }
        assert!(serde_json::from_str::<Word>("2").is_err(), "a number is no word");
        assert_eq!(serde_json::from_str::<Option<Word>>("null").unwrap(), None);
    }
}
