//! Where the key stands in what a file of DER holds.
//!
//! | file says | contents |
//! |---|---|
//! | `PUBLIC KEY` | sequence { algorithm, bit string }: the [bit string](public_key) |
//! | `CERTIFICATE` | the same structure, among the rest |
//! | `PRIVATE KEY` | sequence { version, algorithm, octet string }: the [octet string](private_key) |
//! | `EC PRIVATE KEY` | sequence { version, octet string, \[0\] curve, \[1\] { bit string } }: [`EcKey`] |

use retcd_net::der::{BIT_STRING, Elements, INTEGER, OCTET_STRING, SEQUENCE};

/// The version of a certificate, and the curve of an elliptic key.
const FIELD_0: u8 = 0xa0;
/// The public part of an elliptic key.
const FIELD_1: u8 = 0xa1;

/// The contents of a whole bit string, which has no odd bits at its end.
fn bits(contents: &[u8]) -> Option<&[u8]> {
    contents.split_first().filter(|(odd, _)| **odd == 0).map(|(_, bytes)| bytes)
}

/// The key itself, out of the structure that names its algorithm.
pub(super) fn public_key(der: &[u8]) -> Option<&[u8]> {
    let mut key = Elements(Elements(der).expect_tag(SEQUENCE)?);
    key.expect_tag(SEQUENCE)?;
    bits(key.expect_tag(BIT_STRING)?)
}

/// That of a certificate.
pub(super) fn certified_key(der: &[u8]) -> Option<&[u8]> {
    let mut certificate = Elements(Elements(der).expect_tag(SEQUENCE)?);
    let mut body = Elements(certificate.expect_tag(SEQUENCE)?);
    body.skip_tag(FIELD_0);
    body.expect_tag(INTEGER)?;
    // Signature algorithm, issuer, validity, subject.
    for _ in 0..4 {
        body.expect_tag(SEQUENCE)?;
    }
    let mut key = Elements(body.expect_tag(SEQUENCE)?);
    key.expect_tag(SEQUENCE)?;
    bits(key.expect_tag(BIT_STRING)?)
}

/// The key itself, out of the structure that names its algorithm.
pub(super) fn private_key(der: &[u8]) -> Option<&[u8]> {
    let mut key = Elements(Elements(der).expect_tag(SEQUENCE)?);
    key.expect_tag(INTEGER)?;
    key.expect_tag(SEQUENCE)?;
    key.expect_tag(OCTET_STRING)
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
        let mut key = Elements(Elements(der).expect_tag(SEQUENCE)?);
        key.expect_tag(INTEGER)?;
        let private = key.expect_tag(OCTET_STRING)?;
        key.skip_tag(FIELD_0);
        let public = bits(Elements(key.expect_tag(FIELD_1)?).expect_tag(BIT_STRING)?)?;
        Some(EcKey { private, public })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
