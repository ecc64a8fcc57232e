//! As much of DER as keys need: elements of tag, length, contents.
//!
//! | file says | contents |
//! |---|---|
//! | `PUBLIC KEY` | sequence { algorithm, bit string }: the [bit string](public_key) |
//! | `CERTIFICATE` | the same structure, among the rest |
//! | `PRIVATE KEY` | sequence { version, algorithm, octet string }: the [octet string](private_key) |
//! | `EC PRIVATE KEY` | sequence { version, octet string, \[0\] curve, \[1\] { bit string } }: [`EcKey`] |

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
/// The version of a certificate, and the curve of an elliptic key.
const FIELD_0: u8 = 0xa0;
/// The public part of an elliptic key.
const FIELD_1: u8 = 0xa1;

/// Elements that have not been read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: its tag and contents.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        // Up to 127 bytes the length stands for itself, else it says how many bytes the length takes.
        let (len, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if len.len() > 4 {
                return None;
            }
            (len.iter().fold(0, |all, byte| all << 8 | usize::from(*byte)), rest)
        };
        let (contents, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, contents))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, contents)| contents)
    }

    /// The next element, if it has this tag.
    fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.expect(tag) } else { None }
    }
}

/// The contents of a whole bit string, which has no odd bits at its end.
fn bits(contents: &[u8]) -> Option<&[u8]> {
    contents.split_first().filter(|(odd, _)| **odd == 0).map(|(_, bytes)| bytes)
}

/// The key itself, out of the structure that names its algorithm.
pub(super) fn public_key(der: &[u8]) -> Option<&[u8]> {
    let mut key = Reader(Reader(der).expect(SEQUENCE)?);
    key.expect(SEQUENCE)?;
    bits(key.expect(BIT_STRING)?)
}

/// That of a certificate.
pub(super) fn certified_key(der: &[u8]) -> Option<&[u8]> {
    let mut certificate = Reader(Reader(der).expect(SEQUENCE)?);
    let mut body = Reader(certificate.expect(SEQUENCE)?);
    body.optional(FIELD_0);
    body.expect(INTEGER)?;
    // Signature algorithm, issuer, validity, subject.
    for _ in 0..4 {
        body.expect(SEQUENCE)?;
    }
    let mut key = Reader(body.expect(SEQUENCE)?);
    key.expect(SEQUENCE)?;
    bits(key.expect(BIT_STRING)?)
}

/// The key itself, out of the structure that names its algorithm.
pub(super) fn private_key(der: &[u8]) -> Option<&[u8]> {
    let mut key = Reader(Reader(der).expect(SEQUENCE)?);
    key.expect(INTEGER)?;
    key.expect(SEQUENCE)?;
    key.expect(OCTET_STRING)
}

/// Both halves of a key on an elliptic curve.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EcKey<'a> {
    pub(super) private: &'a [u8],
    pub(super) public: &'a [u8],
}

impl<'a> EcKey<'a> {
    /// `None` also when the public half, which may be missing, is.
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        let mut key = Reader(Reader(der).expect(SEQUENCE)?);
        key.expect(INTEGER)?;
        let private = key.expect(OCTET_STRING)?;
        key.optional(FIELD_0);
        let public = bits(Reader(key.expect(FIELD_1)?).expect(BIT_STRING)?)?;
        Some(EcKey { private, public })
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
        let mut reader = Reader(&long);
        assert_eq!(reader.next().unwrap().1.len(), 256);
        assert_eq!(reader.optional(SEQUENCE), None);
        assert_eq!(reader.optional(INTEGER), Some(&[5][..]));
        assert_eq!(reader.next(), None);
        for broken in [&[INTEGER][..], &[INTEGER, 2, 1], &[INTEGER, 0x85, 0, 0, 0, 0, 1, 9]] {
            assert_eq!(Reader(broken).next(), None, "{broken:?}");
        }
    }

    #[test]
    fn an_elliptic_key_has_two_halves() {
        let der = [
            &[SEQUENCE, 17, INTEGER, 1, 1, OCTET_STRING, 2, 8, 9][..],
            &[FIELD_0, 1, 0, FIELD_1, 5, BIT_STRING, 3, 0, 4, 5],
        ]
        .concat();
        assert_eq!(EcKey::parse(&der), Some(EcKey { private: &[8, 9], public: &[4, 5] }));
        assert_eq!(EcKey::parse(&der[..12]), None);
    }
}
