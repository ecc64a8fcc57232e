//! Errors of a handshake in Go's words: operators search the log for them.

use std::io;

use tokio_rustls::rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible,
};

/// Of an error that a handshake has ended with.
pub(super) fn handshake(error: &io::Error) -> String {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return tls(error);
    }
    io(error)
}

/// Without the number that the system's errors end with.
pub(super) fn io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

fn tls(error: &Error) -> String {
    let words = match error {
        Error::InvalidCertificate(error) => return certificate(error),
        Error::NoCertificatesPresented => "client didn't provide a certificate",
        Error::AlertReceived(alert) => return format!("remote error: tls: {}", words_of(*alert)),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload,
        ) => "first record does not look like a TLS handshake",
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => "client offered only unsupported versions",
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            "no cipher suite supported by both client and server"
        }
        Error::NoApplicationProtocol => "client requested unsupported application protocols",
        other => return format!("tls: {other}"),
    };
    format!("tls: {words}")
}

fn certificate(error: &CertificateError) -> String {
    let words = match error {
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            format!("certificate has expired or is not yet valid: {error}")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate specifies an incompatible key usage".to_owned()
        }
        // Of somebody who is not let in.
        CertificateError::NotValidForName => {
            return "client certificate authentication failed".to_owned();
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let reason = other_host(&expected.to_str(), presented);
            return format!("tls: failed to verify certificate: {reason}");
        }
        CertificateError::Other(other) => other.0.to_string(),
        other => other.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {words}")
}

/// Of a certificate that names these hosts, or addresses for an address, and not the expected one.
pub(super) fn other_host(expected: &str, presented: &[String]) -> String {
    if !presented.is_empty() {
        let valid = presented.join(", ");
        return format!("x509: certificate is valid for {valid}, not {expected}");
    }
    if expected.parse::<std::net::IpAddr>().is_ok() {
        return format!(
            "x509: cannot validate certificate for {expected} because it doesn't contain any IP SANs"
        );
    }
    format!("x509: certificate is not valid for any names, but wanted to match {expected}")
}

fn words_of(alert: AlertDescription) -> String {
    let words = match alert {
        AlertDescription::CloseNotify => "close notify",
        AlertDescription::UnexpectedMessage => "unexpected message",
        AlertDescription::BadRecordMac => "bad record MAC",
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::IllegalParameter => "illegal parameter",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::DecodeError => "error decoding message",
        AlertDescription::DecryptError => "error decrypting message",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::InsufficientSecurity => "insufficient security level",
        AlertDescription::InternalError => "internal error",
        AlertDescription::UserCanceled => "user canceled",
        AlertDescription::UnrecognisedName => "unrecognized name",
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::NoApplicationProtocol => "no application protocol",
        other => return format!("alert({})", u8::from(other)),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_fail_in_gos_words() {
        let of = |error: Error| handshake(&io::Error::new(io::ErrorKind::InvalidData, error));
        for (error, words) in [
            (
                Error::InvalidCertificate(CertificateError::UnknownIssuer),
                "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            ),
            (Error::NoCertificatesPresented, "tls: client didn't provide a certificate"),
            (
                Error::AlertReceived(AlertDescription::BadCertificate),
                "remote error: tls: bad certificate",
            ),
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                "tls: first record does not look like a TLS handshake",
            ),
        ] {
            assert_eq!(of(error), words);
        }
        assert_eq!(handshake(&io::ErrorKind::UnexpectedEof.into()), "EOF");
    }
}
