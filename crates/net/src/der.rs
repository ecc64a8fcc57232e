//! As much of DER as certificates and keys need: elements of tag, length, contents.

// Tags, with the bits for class and construction.
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const SEQUENCE: u8 = 0x30;

/// Elements of DER, one after the other. Ends at what is none.
#[derive(Debug, Clone)]
pub struct Elements<'a>(pub &'a [u8]);

impl<'a> Iterator for Elements<'a> {
    /// Tag and content.
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [tag, length, rest @ ..] = self.0 else { return None };
        let (length, rest) = match *length {
            short @ ..0x80 => (usize::from(short), rest),
            long => {
                let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                if digits.len() > 4 {
                    return None;
                }
                (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
            }
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }
}

impl<'a> Elements<'a> {
    /// The content of the next element, which must have this tag.
    pub fn expect_tag(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// As [`Self::expect_tag`], but what has another tag is left for later.
    pub fn skip_tag(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = self.clone();
        let content = ahead.expect_tag(tag)?;
        *self = ahead;
        Some(content)
    }

    /// Whether all of it has been read.
    pub fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_one_byte_or_more() {
        let mut long = vec![OCTET_STRING, 0x82, 0x01, 0x00];
        long.extend([7; 256]);
        long.extend([INTEGER, 1, 5]);
        let mut elements = Elements(&long);
        assert_eq!(elements.next().unwrap().1.len(), 256);
        assert_eq!(elements.skip_tag(SEQUENCE), None);
        assert_eq!(elements.skip_tag(INTEGER), Some(&[5][..]));
        assert_eq!(elements.next(), None);
        for broken in [&[INTEGER][..], &[INTEGER, 2, 1], &[INTEGER, 0x85, 0, 0, 0, 0, 1, 9]] {
            assert_eq!(Elements(broken).next(), None, "{broken:?}");
        }
    }
}
