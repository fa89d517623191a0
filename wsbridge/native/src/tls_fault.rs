//! Why a TLS connection failed: its kind, OpenSSL's name of the reason, and a sentence.

use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved,
};

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The connection ended without close_notify.
    Truncated,
    /// Records without payload in a row.
    Flood,
    /// The peer does not read what it makes us reply.
    Unread,
    /// The client asks for a server name that rustls would reject: nothing was sent, OpenSSL can serve it.
    Name,
    /// TLS itself, or an alert.
    Tls,
}

impl FaultKind {
    /// The name that Python knows it by.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::Truncated => "truncated",
            FaultKind::Flood => "flood",
            FaultKind::Unread => "unread",
            FaultKind::Name => "name",
            FaultKind::Tls => "tls",
        }
    }
}

/// Why TLS failed.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: FaultKind,
    /// As OpenSSL names it, such as `TLSV1_ALERT_UNKNOWN_CA`; empty where it has no name.
    pub reason: &'static str,
    pub text: String,
}

impl Fault {
    pub fn new(kind: FaultKind, text: String) -> Self {
        Fault {
            kind,
            reason: "",
            text,
        }
    }

    /// A failure that OpenSSL has a name for.
    pub fn named(reason: &'static str) -> Self {
        Fault {
            kind: FaultKind::Tls,
            reason,
            text: reason.to_ascii_lowercase().replace('_', " "),
        }
    }

    /// The failure that rustls reports; `flood` is the sentence for records without payload in a row.
    pub fn from_tls(error: &Error, flood: &str) -> Self {
        match reason(error) {
            Some("") | None => Fault::new(FaultKind::Tls, error.to_string()),
            Some(FLOOD) => Fault::new(FaultKind::Flood, flood.to_owned()),
            Some(reason) => Fault::named(reason),
        }
    }
}

const FLOOD: &str = "FLOOD";

fn reason(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::AlertReceived(alert) => alert_reason(*alert),
        Error::NoCertificatesPresented => "PEER_DID_NOT_RETURN_A_CERTIFICATE",
        Error::DecryptError => "DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
        Error::PeerSentOversizedRecord => "DATA_LENGTH_TOO_LONG",
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "UNEXPECTED_MESSAGE"
        }
        Error::InvalidMessage(message) => match message {
            InvalidMessage::InvalidContentType => "BAD_RECORD_TYPE",
            InvalidMessage::UnknownProtocolVersion => "WRONG_VERSION_NUMBER",
            InvalidMessage::MessageTooLarge => "PACKET_LENGTH_TOO_LONG",
            InvalidMessage::UnexpectedMessage(_) => "UNEXPECTED_MESSAGE",
            _ => "",
        },
        Error::PeerMisbehaved(what) => match what {
            PeerMisbehaved::TooManyEmptyFragments
            | PeerMisbehaved::TooManyKeyUpdateRequests
            | PeerMisbehaved::TooManyRenegotiationRequests
            | PeerMisbehaved::TooManyWarningAlertsReceived => FLOOD,
            _ => "",
        },
        Error::PeerIncompatible(what) => match what {
            PeerIncompatible::NoCipherSuitesInCommon => "NO_SHARED_CIPHER",
            PeerIncompatible::NoKxGroupsInCommon => "NO_SUITABLE_KEY_SHARE",
            PeerIncompatible::NoSignatureSchemesInCommon => "NO_SHARED_SIGNATURE_ALGORITHMS",
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled => "UNSUPPORTED_PROTOCOL",
            _ => "",
        },
        Error::InvalidCertificate(_) => "CERTIFICATE_VERIFY_FAILED",
        _ => return None,
    })
}

fn alert_reason(alert: AlertDescription) -> &'static str {
    use AlertDescription as A;
    match alert {
        A::UnexpectedMessage => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        A::BadRecordMac => "SSLV3_ALERT_BAD_RECORD_MAC",
        A::RecordOverflow => "TLSV1_ALERT_RECORD_OVERFLOW",
        A::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        A::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        A::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        A::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        A::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        A::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        A::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        A::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        A::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        A::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        A::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        A::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        A::InsufficientSecurity => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        A::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        A::InappropriateFallback => "TLSV1_ALERT_INAPPROPRIATE_FALLBACK",
        A::UserCanceled => "TLSV1_ALERT_USER_CANCELLED",
        A::NoRenegotiation => "TLSV1_ALERT_NO_RENEGOTIATION",
        A::MissingExtension => "TLSV13_ALERT_MISSING_EXTENSION",
        A::UnsupportedExtension => "TLSV1_UNSUPPORTED_EXTENSION",
        A::UnrecognisedName => "TLSV1_UNRECOGNIZED_NAME",
        A::CertificateRequired => "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        A::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => "",
    }
}

/// What a certificate that OpenSSL rejects is to rustls, which sends the alert; the number is an X509_V_ERR.
pub fn certificate_error(verify_code: u32) -> CertificateError {
    match verify_code {
        2 | 6 | 18 | 19 | 20 | 21 | 22 | 24 | 25 | 29 => CertificateError::UnknownIssuer,
        7 | 8 => CertificateError::BadSignature,
        10 | 12 => CertificateError::Expired,
        23 => CertificateError::Revoked,
        26 => CertificateError::InvalidPurpose,
        _ => CertificateError::BadEncoding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_the_names_of_openssl() {
        for (error, reason, kind) in [
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                "TLSV1_ALERT_UNKNOWN_CA",
                FaultKind::Tls,
            ),
            (
                Error::NoCertificatesPresented,
                "PEER_DID_NOT_RETURN_A_CERTIFICATE",
                FaultKind::Tls,
            ),
            (
                PeerMisbehaved::TooManyKeyUpdateRequests.into(),
                "",
                FaultKind::Flood,
            ),
            (PeerMisbehaved::InvalidKeyShare.into(), "", FaultKind::Tls),
        ] {
            let fault = Fault::from_tls(&error, "a flood");
            assert_eq!((fault.reason, fault.kind), (reason, kind));
            assert!(!fault.text.is_empty());
        }
    }

    #[test]
    fn unknown_alerts_are_described() {
        let fault = Fault::from_tls(&Error::AlertReceived(AlertDescription::Unknown(200)), "");
        assert_eq!(fault.reason, "");
        assert!(fault.text.contains("alert"), "{}", fault.text);
    }
}
